"""Atomic writing: whoever looks, whenever, finds the old file or the new one, and nothing else beside it."""

import errno
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

import tinyunet
from tinyunet.errors import ConfigError, DataError
from tinyunet.files import atomic_write, own_folder

ROOT = Path(tinyunet.__file__).parents[1]


def replace_in_place(path):
    """How one should not write: open the file itself. Takes the part of `atomic_write` where a test must fail."""

    class Here:
        def __enter__(self):
            path.write_bytes(b"")
            return path

        def __exit__(self, *error):
            return False

    return Here()


def interrupted(write, path):
    """Whether an interruption halfway leaves the old content, and no other file."""
    path.write_bytes(b"old")
    try:
        with write(path) as temporary:
            temporary.write_bytes(b"ne")
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    return path.read_bytes() == b"old" and list(path.parent.iterdir()) == [path]


def test_a_finished_block_makes_the_file(tmp_path):
    """After the block the file has the new content, and the folder holds nothing else."""
    path = tmp_path / "weights.bin"
    for content in (b"first", b"second, longer"):
        with atomic_write(path) as temporary:
            assert temporary.parent == path.parent  # a rename is atomic only within a file system
            assert temporary.suffix == ".bin"  # some libraries choose a format from it
            temporary.write_bytes(content)
        assert path.read_bytes() == content
        assert list(tmp_path.iterdir()) == [path]


def test_a_path_may_be_a_string(tmp_path):
    """A string works like a Path."""
    with atomic_write(str(tmp_path / "a.txt")) as temporary:
        temporary.write_text("x")
    assert (tmp_path / "a.txt").read_text() == "x"


def test_an_interrupted_block_leaves_the_old_file(tmp_path):
    """Ctrl-C in the block: the old file is untouched, the temporary one gone. Writing in place fails this check."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert interrupted(atomic_write, tmp_path / "a" / "x.bin")
    assert not interrupted(replace_in_place, tmp_path / "b" / "x.bin")


def test_an_error_of_the_block_comes_through(tmp_path):
    """An error that has nothing to do with files is not changed, and leaves nothing behind."""
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "x.bin") as temporary:
        temporary.write_bytes(bytes(1 // 0))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_a_data_error(tmp_path):
    """An OSError in the block becomes a DataError with path and reason; the old file stays."""
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    with pytest.raises(DataError, match=r"x\.bin: cannot be written \(No space left.*Is there space left"), atomic_write(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("where", ["missing/x.bin", "file/x.bin"])
def test_a_folder_that_is_none(tmp_path, where):
    """A missing folder, or a file in its place, is refused with the path and a question that helps."""
    (tmp_path / "file").write_bytes(b"")
    text = r"x\.bin: cannot be written \(.*\)\. Does the folder exist\? May you write there\?"
    with pytest.raises(DataError, match=text), atomic_write(tmp_path / where):
        pytest.fail("the block must not run")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes on this system")
def test_what_is_no_file_is_not_replaced(tmp_path):
    """A folder, a pipe, a device, and a link to one stay what they are: root could rename a file over /dev/null."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    before = sorted((p.name, p.lstat().st_mode, p.lstat().st_ino) for p in tmp_path.iterdir())
    for name in ("folder", "pipe", "link"):
        with pytest.raises(DataError) as caught, atomic_write(tmp_path / name):
            pytest.fail("the block must not run")
        text = f"{tmp_path / name}: cannot be written: it is a folder, a pipe or a device. Choose another name."
        assert str(caught.value) == text
    assert sorted((p.name, p.lstat().st_mode, p.lstat().st_ino) for p in tmp_path.iterdir()) == before


def test_a_name_with_a_null(tmp_path):
    """No file can be called so: DataError, as for every other name that the system refuses."""
    with pytest.raises(DataError, match=r"cannot be written \(embedded null byte\)"), atomic_write(tmp_path / "a\0b"):
        pytest.fail("the block must not run")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of folders are those of POSIX")
def test_a_read_only_folder_is_a_data_error(tmp_path, monkeypatch):
    """Without permission to write: DataError that asks for it. (Root may write anywhere, so there the refusal is put in.)"""
    if os.geteuid() == 0:
        def refused(**_):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(tempfile, "mkstemp", refused)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(DataError, match=r"Permission denied.*May you write there\?"), atomic_write(tmp_path / "x.bin"):
            pytest.fail("the block must not run")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(os.name != "posix", reason="umask is a thing of POSIX")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path, umask):
    """The file may be read by whom the umask lets, as if it were opened the plain way; the umask stays as it was."""
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "x.bin") as temporary:
            temporary.write_bytes(b"1")
        (tmp_path / "plain").write_bytes(b"1")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("x.bin", "plain")]
    assert modes[0] == modes[1] == 0o666 & ~umask


@pytest.mark.skipif(os.name != "posix", reason="umask is a thing of POSIX")
def test_a_file_stays_readable_for_its_owner(tmp_path):
    """Whatever the umask: that of Python in a browser lets nobody read anything, and what was saved could not be opened."""
    before = os.umask(0o777)
    try:
        with atomic_write(tmp_path / "x.bin") as temporary:
            temporary.write_bytes(b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.bin").stat().st_mode) == 0o600


def test_a_reader_never_sees_half(tmp_path):
    """While one thread writes again and again, another reads only whole contents."""
    path = tmp_path / "x.bin"
    path.write_bytes(b"a" * 5000)
    seen, done = set(), threading.Event()

    def read():
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for i in range(60):
            letter = b"ab"[i % 2 : i % 2 + 1]
            with atomic_write(path) as temporary, temporary.open("wb") as file:
                for _ in range(5):
                    file.write(letter * 1000)
                    file.flush()
    finally:
        done.set()
        reader.join()
    assert seen <= {b"a" * 5000, b"b" * 5000}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on this system")
def test_a_killed_process_leaves_the_old_file(tmp_path):
    """SIGKILL in the middle of the block: no code runs any more, and the old file is still whole."""
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    code = (
        "import os, signal, sys; from tinyunet.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as temporary:\n"
        "    temporary.write_bytes(b'ne'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_own_folders_are_found_by_a_file_in_them():
    """Beside the package in a checkout; a folder without that file is another one."""
    assert (own_folder("kernels", "include") / "include").is_dir()
    with pytest.raises(ConfigError, match=r"^kernels: no folder with nothing.md in .* Install tinyunet again, from its wheel\."):
        own_folder("kernels", "nothing.md")
