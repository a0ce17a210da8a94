"""The same numbers as PyTorch: every op on every rung, three networks with all gradients, ten training steps."""

import numpy as np
import parity_cases
import pytest
from parity_cases import NETWORKS, OPS, SMALL_NETWORKS, TRAINING

import tinyunet as tu

ON_RUNGS = [
    (name, rung, dtype)
    for name, case in OPS.items() for dtype in ("float64", "float32") for rung in parity_cases.rungs(case, dtype)
]  # fmt: skip
both_precisions = pytest.mark.parametrize("dtype", ["float64", "float32"])


def compare(oracle, case, dtype):
    """Ours in a dtype against PyTorch in float64."""
    ours = case.ours(**case.given(dtype))
    parity_cases.check(case, ours, oracle.theirs(case, "float64"), dtype)
    return ours


@pytest.mark.parametrize(("name", "rung", "dtype"), ON_RUNGS)
def test_ops(oracle, name, rung, dtype):
    """An op and its gradients are PyTorch's, whichever rung computes them, and keep the dtype."""
    case = OPS[name]
    with tu.rung(**({case.op: rung} if case.op else {})):
        ours = compare(oracle, case, dtype)
    assert {array.dtype.name for key, array in ours.items() if key != "E"} == {dtype}


@both_precisions
@pytest.mark.parametrize("name", [*SMALL_NETWORKS, *NETWORKS])
def test_networks(oracle, name, dtype):
    """Logits, loss, the gradient of the image and of every parameter of the three presets are PyTorch's, dropout included."""
    compare(oracle, {**SMALL_NETWORKS, **NETWORKS}[name], dtype)


@both_precisions
@pytest.mark.parametrize("name", TRAINING)
def test_ten_steps(oracle, name, dtype):
    """Ten steps of SGD with momentum 0.99, or of Adam, move every weight as PyTorch's optimizers do."""
    compare(oracle, TRAINING[name], dtype)


@pytest.mark.slow
def test_the_papers_network_in_full(oracle):
    """So do the 31 million parameters of figure 1, on the smallest image that fits."""
    compare(oracle, parity_cases.network_case(tu.PAPER, (188, 188), 1), "float64")


def test_every_case_is_computed_by_both(oracle):
    """PyTorch has a function for every kind of case, and no other; every op with a backward pass is among the cases."""
    cases = [*OPS.values(), *SMALL_NETWORKS.values(), *NETWORKS.values(), *TRAINING.values()]
    assert {case.kind for case in cases} == set(oracle.THEIRS)
    called = {name for case in OPS.values() for name in (*case.ours.__code__.co_names, *tu.energy.__code__.co_names)}
    through_layers = {"batch_norm_forward", "batch_norm_backward", "batch_norm_eval_forward", "batch_norm_eval_backward"}
    assert {name for name in tu.ops.__all__ if name.endswith("ward")} <= called | through_layers


def test_the_names_are_those_of_a_plain_module(oracle):
    """`to_torch` gives the names, shapes and dtypes of the module's own state_dict, which loads them strictly."""
    for case in NETWORKS.values():
        spec = case.inputs["spec"]
        theirs = oracle.TorchUNet(spec, None)
        state = {name: t for name, t in theirs.state_dict().items() if not name.endswith("num_batches_tracked")}
        ours = tu.to_torch(tu.UNet(spec))
        assert {name: (tuple(t.shape), str(t.dtype)) for name, t in state.items()} == {
            name: (a.shape, f"torch.{a.dtype}") for name, a in ours.items()
        }
        theirs.load_state_dict({name: oracle.torch.from_numpy(a) for name, a in ours.items()}, strict=True)


def test_a_state_dict_comes_in_as_it_is(oracle):
    """`from_torch` takes the tensors of a state_dict, `num_batches_tracked` and all, and the two networks agree."""
    case = NETWORKS["same_bn"]
    theirs = oracle.network(case.inputs["spec"], oracle.torch.float64).eval()
    model = tu.UNet(case.inputs["spec"]).astype("float64").eval()
    tu.from_torch(model, theirs.state_dict())
    x = case.inputs["x"]
    np.testing.assert_allclose(model.forward(x), oracle.nhwc(theirs(oracle.nchw(x))), rtol=1e-10, atol=1e-12)


def test_copies_share_no_memory(oracle):
    """Training the one network leaves the other alone, in both directions."""
    spec = SMALL_NETWORKS["paper, depth 2"].inputs["spec"]
    model, theirs = tu.UNet(spec), oracle.TorchUNet(spec, None)
    theirs.load_state_dict({name: oracle.torch.from_numpy(a) for name, a in tu.to_torch(model).items()}, assign=True)
    before = model.params()["head.b"].copy()
    with oracle.torch.no_grad():
        theirs.head.bias += 1
    assert (model.params()["head.b"] == before).all()
    tu.from_torch(model, theirs.state_dict())
    model.params()["head.b"] += 1
    assert (theirs.head.bias.detach().numpy() == before + 1).all()


@pytest.mark.parametrize("value", ["a gradient", "bfloat16"])
def test_tensors_that_numpy_cannot_read(oracle, value):
    """The error names the tensor and says what to give."""
    model = tu.UNet(SMALL_NETWORKS["paper, depth 2"].inputs["spec"])
    state = {name: oracle.torch.from_numpy(a) for name, a in tu.to_torch(model).items()}
    odd = state["head.bias"]
    state["head.bias"] = odd.requires_grad_() if value == "a gradient" else odd.to(oracle.torch.bfloat16)
    with pytest.raises(tu.errors.DTypeError, match=r"from_torch: head\.bias cannot be read as an array \(.+\)\. Give float32 on"):
        tu.from_torch(model, state)


def test_a_network_as_people_publish_it(oracle):
    """Numbered blocks, no bias in front of batch norm, the skip first, another epsilon: it comes in by a map of names."""
    torch, nn = oracle.torch, oracle.nn

    def single(c_in, c_out):
        return nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out, eps=1e-3), nn.ReLU()

    def double(c_in, c_out):
        return nn.Sequential(*single(c_in, c_out), *single(c_out, c_out))

    class Published(nn.Module):
        def __init__(self):
            super().__init__()
            self.enc1, self.enc2, self.enc3 = double(3, 4), double(4, 8), double(8, 16)
            self.up2, self.dec2 = nn.ConvTranspose2d(16, 8, 2, stride=2), double(16, 8)
            self.up1, self.dec1 = nn.ConvTranspose2d(8, 4, 2, stride=2), double(8, 4)
            self.out = nn.Conv2d(4, 2, 1)

        def forward(self, x):
            pool = nn.functional.max_pool2d
            a = self.enc1(x)
            b = self.enc2(pool(a, 2))
            c = self.enc3(pool(b, 2))
            b = self.dec2(torch.cat([b, self.up2(c)], dim=1))
            return self.out(self.dec1(torch.cat([a, self.up1(b)], dim=1)))

    theirs = Published().double()
    x = parity_cases.values(1, 2, 16, 24, 3)
    theirs.load_state_dict({
        name: torch.tensor(1.5 + parity_cases.values(seed, *t.shape) if "var" in name else parity_cases.values(seed, *t.shape))
        for seed, (name, t) in enumerate(theirs.state_dict().items()) if t.is_floating_point()
    }, strict=False)  # fmt: skip
    blocks = {"enc1": "down.0", "enc2": "down.1", "enc3": "bottom", "dec2": "up.1", "dec1": "up.0"}
    inside = {"0": "conv1", "1": "norm1", "3": "conv2", "4": "norm2"}
    names = {f"{b}.{i}": f"{ours}.{layer}" for b, ours in blocks.items() for i, layer in inside.items()}
    names |= {"up2": "up.1.upconv", "up1": "up.0.upconv", "out": "head"}

    model = tu.UNet(tu.SAME_BN.but(channels=3, base=4, depth=2)).astype("float64").eval()
    tu.from_torch(model, theirs.state_dict(), names=names, skip_first=True, epsilon=1e-3)
    wanted = oracle.nhwc(theirs.eval()(oracle.nchw(x)))
    assert np.abs(model.forward(x) - wanted).max() <= 1e-12 * np.abs(wanted).max()
