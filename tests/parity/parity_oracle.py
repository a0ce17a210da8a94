"""The cases of `parity_cases` in PyTorch, with its own autograd: ops by name, and a U-Net as people write it there.

Arrays come and go as here, (N, H, W, C). Weights of ops are turned by hand; those of networks go through `to_torch` and back
through `from_torch`, which are thereby compared too.
"""

import parity_cases
import torch
import torch.nn.functional as F  # noqa: N812  as everybody calls it
from torch import nn

import tinyunet as tu


def nchw(a):
    """(N, H, W, C) array -> (N, C, H, W) tensor that wants a gradient."""
    return torch.tensor(a.transpose(0, 3, 1, 2).copy()).requires_grad_()


def nhwc(t):
    """(N, C, H, W) tensor -> (N, H, W, C) array."""
    return t.detach().permute(0, 2, 3, 1).numpy()


def leaf(a):
    """An array of any shape as a tensor that wants a gradient."""
    return torch.tensor(a).requires_grad_()


# Ops -----------------------------------------------------------------------------------------------------------------


def conv(x, w, b, dy, padding):
    x, w, b = nchw(x), leaf(w.transpose(3, 2, 0, 1).copy()), leaf(b)
    y = F.conv2d(x, w, b, padding=padding)
    y.backward(nchw(dy))
    return {"y": nhwc(y), "dx": nhwc(x.grad), "dw": w.grad.permute(2, 3, 1, 0).numpy(), "db": b.grad.numpy()}


def upconv(x, w, b, dy):
    x, w, b = nchw(x), leaf(w.transpose(3, 2, 0, 1).copy()), leaf(b)
    y = F.conv_transpose2d(x, w, b, stride=2)
    y.backward(nchw(dy))
    return {"y": nhwc(y), "dx": nhwc(x.grad), "dw": w.grad.permute(2, 3, 1, 0).numpy(), "db": b.grad.numpy()}


def one_to_one(function, x, dy):
    """y and dx of a function without parameters."""
    x = nchw(x)
    y = function(x)
    y.backward(nchw(dy))
    return {"y": nhwc(y), "dx": nhwc(x.grad)}


def max_pool(x, dy):
    return one_to_one(lambda x: F.max_pool2d(x, 2), x, dy)


def relu(x, dy):
    return one_to_one(F.relu, x, dy)


def dropout(x, kept, rate, dy):
    return one_to_one(lambda x: x * torch.tensor(kept.transpose(0, 3, 1, 2)) / (1 - rate), x, dy)


def mirror_pad(x, dy, amounts):
    """Reflections of at most one image width at a time: between two full ones lies a mirror again."""

    def pad(x):
        top, bottom, left, right = amounts
        while top or bottom or left or right:
            height, width = x.shape[2] - 1, x.shape[3] - 1
            now = (min(left, width), min(right, width), min(top, height), min(bottom, height))
            x = F.pad(x, now, mode="reflect")
            left, right, top, bottom = left - now[0], right - now[1], top - now[2], bottom - now[3]
        return x

    return one_to_one(pad, x, dy)


def batch_norm(xs, gamma, beta, dy):
    layer = nn.BatchNorm2d(gamma.size).to(leaf(gamma).dtype)
    layer.load_state_dict({"weight": leaf(gamma), "bias": leaf(beta)}, strict=False)
    result = {}
    for training, when in ((True, ""), (False, " in eval")):
        layer.train(training)
        for batch in xs if training else xs[-1:]:
            x = nchw(batch)
            y = layer(x)
        layer.zero_grad()
        y.backward(nchw(dy))
        result |= {f"y{when}": nhwc(y), f"dx{when}": nhwc(x.grad)}
        result |= {f"dgamma{when}": layer.weight.grad.numpy().copy(), f"dbeta{when}": layer.bias.grad.numpy().copy()}
        result |= {"running mean": layer.running_mean.numpy(), "running var": layer.running_var.numpy()}
    return result


def crop_concat(up, skip, dy):
    up, skip = nchw(up), nchw(skip)
    top, left = (skip.shape[2] - up.shape[2]) // 2, (skip.shape[3] - up.shape[3]) // 2
    y = torch.cat((up, skip[:, :, top : top + up.shape[2], left : left + up.shape[3]]), dim=1)
    y.backward(nchw(dy))
    return {"y": nhwc(y), "dup": nhwc(up.grad), "dskip": nhwc(skip.grad)}


def loss(logits, labels, weights):
    logits = nchw(logits)
    energy = cross_entropy(logits, labels, weights)
    energy.backward()
    p = torch.sigmoid(logits) if logits.shape[1] == 1 else torch.softmax(logits, dim=1)
    return {"p": nhwc(p), "E": energy.detach().double().numpy(), "dlogits": nhwc(logits.grad)}


def cross_entropy(logits, labels, weights):
    """Weighted cross-entropy, summed over annotated pixels and divided by their number."""
    labels, weights = torch.tensor(labels), torch.tensor(weights)
    counted = labels >= 0
    if logits.shape[1] == 1:
        each = F.binary_cross_entropy_with_logits(logits[:, 0], labels.clamp(min=0).to(logits.dtype), reduction="none")
        each = each * counted
    else:
        each = F.cross_entropy(logits, labels, ignore_index=-1, reduction="none")
    return (each * weights).sum() / counted.sum()


# Networks ------------------------------------------------------------------------------------------------------------


class SharedDropout(nn.Module):
    """Dropout whose masks are drawn by NumPy, over (N, H, W, C), so that both networks lose the same values."""

    def __init__(self, rate, rng):
        super().__init__()
        self.rate, self.rng = rate, rng

    def forward(self, x):
        if not self.training:
            return x
        n, c, height, width = x.shape
        kept = torch.tensor(self.rng.random((n, height, width, c), dtype="float32") >= self.rate).permute(0, 3, 1, 2)
        return x * kept / (1 - self.rate)


class Block(nn.Module):
    """Two convolutions, each with batch norm if wanted and ReLU, then dropout."""

    def __init__(self, c_in, c_out, spec, dropout):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=spec.padding)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=spec.padding)
        self.norm1 = nn.BatchNorm2d(c_out) if spec.norm else nn.Identity()
        self.norm2 = nn.BatchNorm2d(c_out) if spec.norm else nn.Identity()
        self.dropout = dropout

    def forward(self, x):
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        return self.dropout(x)


class Up(Block):
    """Up-convolution, crop, concatenate, two convolutions."""

    def __init__(self, c_in, c_up, c_out, spec):
        super().__init__(c_up + c_out, c_out, spec, nn.Identity())
        self.upconv = nn.ConvTranspose2d(c_in, c_up, 2, stride=2)
        self.relu = nn.ReLU() if spec.relu_after_up else nn.Identity()

    def forward(self, x, skip):
        x = self.relu(self.upconv(x))
        top, left = (skip.shape[2] - x.shape[2]) // 2, (skip.shape[3] - x.shape[3]) // 2
        skip = skip[:, :, top : top + x.shape[2], left : left + x.shape[3]]
        return super().forward(torch.cat([x, skip], dim=1))


class TorchUNet(nn.Module):
    """The network that a spec describes, with two ModuleLists, `down` and `up`, by level."""

    def __init__(self, spec, rng):
        super().__init__()
        widths = [spec.base * 2**level for level in range(spec.depth + 1)]
        last, none = SharedDropout(spec.dropout, rng), nn.Identity()
        self.down = nn.ModuleList(
            Block(widths[k - 1] if k else spec.channels, widths[k], spec, last if k == spec.depth - 1 else none)
            for k in range(spec.depth)
        )
        self.bottom = Block(widths[-2], widths[-1], spec, last)
        self.up = nn.ModuleList(
            Up(widths[k + 1], widths[k] if k or spec.last_up_halves else widths[1], widths[k], spec) for k in range(spec.depth)
        )
        self.head = nn.Conv2d(widths[0], spec.classes, 1)

    def forward(self, x):
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottom(x)
        for up in reversed(self.up):
            x = up(x, skips.pop())
        return self.head(x)


def network(spec, dtype):
    """PyTorch's network with the weights of ours."""
    model = TorchUNet(spec, parity_cases.seeds(0)).to(dtype)
    weights = tu.to_torch(parity_cases.network(spec, str(dtype).removeprefix("torch.")))
    model.load_state_dict({name: torch.from_numpy(a) for name, a in weights.items()})
    return model


def by_our_names(spec, state):
    """Arrays by PyTorch's names -> parameters by ours."""
    holder = tu.UNet(spec).astype("float64")
    tu.from_torch(holder, state)
    return holder.params()


def forward_backward(spec, x, labels, weights):
    x = nchw(x)
    model = network(spec, x.dtype)
    logits = model(x)
    energy = cross_entropy(logits, labels, weights)
    energy.backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    result = {"logits": nhwc(logits), "E": energy.detach().double().numpy(), "dx": nhwc(x.grad)}
    result |= parity_cases.gradients(by_our_names(spec, {**model.state_dict(), **grads}))
    return result | {"logits in eval": nhwc(model.eval()(x))}


def training(spec, optimizer, xs, labels, weights):
    model = network(spec, leaf(xs).dtype)
    before = by_our_names(spec, model.state_dict())
    decayed = [p for p in model.parameters() if p.ndim > 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": [p for p in model.parameters() if p.ndim == 1]}]
    update = torch.optim.SGD(groups, lr=1e-3, momentum=0.99) if optimizer == "SGD" else torch.optim.Adam(groups, lr=1e-3)
    for x in xs:
        update.zero_grad()
        cross_entropy(model(nchw(x)), labels, weights).backward()
        update.step()
    after = by_our_names(spec, model.state_dict())
    return {"logits": nhwc(model(nchw(xs[0]))), **parity_cases.moves(spec, before, after)}


THEIRS = {
    "conv": conv,
    "upconv": upconv,
    "max_pool": max_pool,
    "relu": relu,
    "batch_norm": batch_norm,
    "dropout": dropout,
    "crop_concat": crop_concat,
    "mirror_pad": mirror_pad,
    "loss": loss,
    "network": forward_backward,
    "training": training,
}


def theirs(case, dtype):
    """What PyTorch makes of a case."""
    return THEIRS[case.kind](**case.given(dtype))
