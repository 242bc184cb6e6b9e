import bz2
import gzip
import io
import lzma
import stat
import tarfile
import tracemalloc
import zipfile
from pathlib import PurePosixPath

import pyarrow as pa
import pytest

from mtrouter_rl.datasets.importers import archives
from mtrouter_rl.datasets.importers.archives import MIN_BOMB_BYTES, read_files
from mtrouter_rl.datasets.importers.base import ImportReport
from mtrouter_rl.errors import DatasetError

FILES = {"a/one.json": b"1", "a/two.csv": b"x,y", "b/notes.txt": b"no", "three.json": b""}


def read(path, suffixes=(".json", ".csv")):
    """Path and bytes of every file, and the report."""
    report = ImportReport(format="test")
    files = list(read_files(path, report, suffixes=suffixes))
    assert report.n_files == len(files)
    return {str(file.path): file.data for file in files}, report


def reasons(report):
    return {reason: finding["n"] for reason, finding in report.to_json()["rejected"].items()}


def write_folder(path, files=FILES):
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def member(name, data=b"", **changes):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in changes.items():
        setattr(info, field, value)
    return info, io.BytesIO(data)


def write_tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for info, data in members:
            archive.addfile(info, data)
    return path


def write_zip(path, files=FILES):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def all_members():
    return [member("a", type=tarfile.DIRTYPE), *(member(name, data) for name, data in FILES.items())]


WANTED = {name: data for name, data in FILES.items() if not name.endswith(".txt")}


@pytest.mark.parametrize(
    "make",
    [
        lambda path: write_folder(path / "folder"),
        lambda path: write_tar(path / "x.tar", all_members(), "w"),
        lambda path: write_tar(path / "x.tar.gz", all_members()),
        lambda path: write_tar(path / "x.TGZ", all_members()),
        lambda path: write_tar(path / "x.tar.xz", all_members(), "w:xz"),
        lambda path: write_tar(path / "x.tar.bz2", all_members(), "w:bz2"),
        lambda path: write_zip(path / "x.zip"),
    ],
)
def test_folders_and_archives_give_the_same_files(make, tmp_path):
    files, report = read(make(tmp_path))
    assert files == WANTED
    assert report.n_rejected == 0


def test_no_suffix_takes_every_file(tmp_path):
    assert read(write_folder(tmp_path), suffixes=())[0] == FILES
    assert read(write_tar(tmp_path / "x.tar.gz", all_members()), suffixes=())[0] == FILES


@pytest.mark.parametrize(("name", "pack"), [("one.json", bytes), ("one.json.gz", gzip.compress)])
def test_a_file_given_itself(name, pack, tmp_path):
    (tmp_path / name).write_bytes(pack(b"[1]"))
    assert read(tmp_path / name)[0] == {"one.json": b"[1]"}


def test_a_folder_is_read_in_order_and_archives_in_it_are_opened(tmp_path):
    write_folder(tmp_path, {"b/2.json": b"2", "a.json": b"0", "b.json": b"3"})
    write_tar(tmp_path / "b" / "1.tar.gz", [member("inner/one.json", b"1")])
    files = list(read_files(tmp_path, ImportReport(format="test")))
    assert [file.data for file in files] == [b"0", b"1", b"2", b"3"]
    inner = files[1]
    assert (inner.source, inner.path, inner.archive) == (
        "1.tar.gz:inner/one.json",
        PurePosixPath("inner/one.json"),
        "1.tar.gz",
    )
    assert (files[2].source, files[2].archive) == ("b/2.json", "")


def test_a_link_to_a_folder_is_not_followed(tmp_path):
    write_folder(tmp_path, {"a/one.json": b"1"})
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert read(tmp_path)[0] == {"a/one.json": b"1"}


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(DatasetError, match="nowhere: no such file or folder; give the log's file, folder or archive"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (member("../../out.json", b"1"), "path that leaves the archive"),
        (member("a/../../out.json", b"1"), "path that leaves the archive"),
        (member("/etc/out.json", b"1"), "path that leaves the archive"),
        (member("..\\out.json", b"1"), "path that leaves the archive"),
        (member("C:/out.json", b"1"), "path that leaves the archive"),
        (member("link.json", type=tarfile.SYMTYPE, linkname="/etc/hostname"), "link or device in an archive"),
        (member("link.json", type=tarfile.LNKTYPE, linkname="first.json"), "link or device in an archive"),
        (member("pipe.json", type=tarfile.FIFOTYPE), "link or device in an archive"),
    ],
)
def test_a_bad_tar_member_is_counted_and_the_rest_is_read(bad, reason, tmp_path):
    path = write_tar(tmp_path / "x.tar.gz", [member("first.json", b"1"), bad, member("last.json", b"2")])
    files, report = read(path)
    assert files == {"first.json": b"1", "last.json": b"2"}
    assert reasons(report) == {reason: 1}
    assert f"x.tar.gz:{bad[0].name}" in str(report)
    assert list(tmp_path.iterdir()) == [path]


def linked():
    info = zipfile.ZipInfo("bad.json")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("../bad.json", b"1", "path that leaves the archive"),
        ("/bad.json", b"1", "path that leaves the archive"),
        (linked(), b"/etc/hostname", "link or device in an archive"),
        ("bad.json", bytes(MIN_BOMB_BYTES + 1), "file that unpacks to far too much"),
    ],
)
def test_a_bad_zip_member_is_counted_and_the_rest_is_read(name, data, reason, tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("first.json", b"1")
        archive.writestr(name, data, zipfile.ZIP_DEFLATED)
        archive.writestr("last.json", b"2")
    files, report = read(path)
    assert files == {"first.json": b"1", "last.json": b"2"}
    assert reasons(report) == {reason: 1}


def test_a_zip_member_with_a_wrong_checksum_is_counted_and_the_rest_is_read(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("bad.json", b"BROKEN")
        archive.writestr("last.json", b"2")
    path.write_bytes(path.read_bytes().replace(b"BROKEN", b"broken"))
    files, report = read(path)
    assert files == {"last.json": b"2"}
    assert reasons(report) == {"archive that is cut off or broken": 1}


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".tar.gz", gzip.compress), (".tar.xz", lzma.compress), (".tar.bz2", bz2.compress)]
)
@pytest.mark.parametrize("name", ["bomb.json", "bomb.bin"])
def test_a_tar_that_unpacks_to_far_too_much_is_left_at_that_point(suffix, compress, name, tmp_path):
    path = tmp_path / f"x{suffix}"
    plain = write_tar(
        tmp_path / "x.tar",
        [member("first.json", b"1"), member(name, bytes(3 * MIN_BOMB_BYTES)), member("last.json")],
        "w",
    )
    path.write_bytes(compress(plain.read_bytes()))
    files, report = read(path)
    assert files == {"first.json": b"1"}
    assert reasons(report) == {"file that unpacks to far too much": 1}


def test_a_file_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 4)
    files = {"large.json": b"12345", "small.json": b"1234"}
    paths = [
        write_folder(tmp_path / "folder", files),
        write_tar(tmp_path / "x.tar", [member(*item) for item in files.items()], "w"),
        write_zip(tmp_path / "x.zip", files),
    ]
    for path in paths:
        found, report = read(path)
        assert found == {"small.json": b"1234"}
        assert reasons(report) == {"file that is too large": 1}


@pytest.mark.parametrize("part", [0.9, 0.5, 0.001])
@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.xz", ".zip"])
def test_an_archive_that_is_cut_off_gives_what_comes_before_the_cut(suffix, part, tmp_path):
    rng_bytes = [bytes((i * 7919 * j) % 251 for j in range(20_000)) for i in range(1, 6)]
    files = {f"{i}.json": data for i, data in enumerate(rng_bytes)}
    path = tmp_path / f"x{suffix}"
    if suffix == ".zip":
        write_zip(path, files)
    else:
        write_tar(path, [member(*item) for item in files.items()], f"w:{suffix[-2:]}")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    found, report = read(path)
    assert reasons(report) == {"archive that is cut off or broken": 1}
    assert found.items() < files.items()
    assert found == dict(list(files.items())[: len(found)])


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tar", "x.zip", "x.json.gz"])
@pytest.mark.parametrize(
    "data",
    [bytes(range(256)) * 8, b"x", gzip.compress(b"no tar at all" * 99)[:-9]],
    ids=["every-byte", "one-byte", "cut-off-gzip"],
)
def test_binary_garbage_is_counted(name, data, tmp_path):
    (tmp_path / name).write_bytes(data)
    (tmp_path / "y.json").write_bytes(b"1")
    files, report = read(tmp_path)
    assert files == {"y.json": b"1"}
    assert reasons(report) == {"archive that is cut off or broken": 1}


def test_a_member_name_that_is_no_text_can_be_reported(tmp_path):
    info = member("bad\udcff.json", type=tarfile.SYMTYPE, linkname="x")
    report = read(write_tar(tmp_path / "x.tar", [info], "w"))[1]
    assert "bad\\udcff.json" in str(report)
    str(report).encode()


def test_passing_over_many_members_holds_none_of_them(tmp_path):
    path = write_tar(tmp_path / "x.tar.gz", [member(f"{i}.json", b"1") for i in range(50)])
    held = []
    real = tarfile.open

    def spy(*args, **kwargs):
        held.append(real(*args, **kwargs))
        return held[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tarfile, "open", spy)
        for _ in read_files(path, ImportReport(format="test")):
            assert len(held[0].members) <= 1


def zst(data):
    return pa.compress(data, codec="zstd", asbytes=True)


def packed(make, files):
    """Bytes of an archive."""
    buffer = io.BytesIO()
    make(buffer, files)
    return buffer.getvalue()


def tar_gz(buffer, files):
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            info, file = member(name, data)
            archive.addfile(info, file)


def nested_zip(buffer, files):
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


@pytest.mark.parametrize(
    ("name", "pack"),
    [("x.json.bz2", bz2.compress), ("x.json.xz", lzma.compress), ("x.json.zst", zst), ("X.JSON.GZ", gzip.compress)],
)
def test_packed_files(name, pack, tmp_path):
    (tmp_path / name).write_bytes(pack(b"[1]") + (pack(b"[2]") if "gz" not in name.lower() else b""))
    files, _ = read(tmp_path)
    assert next(iter(files.values())).startswith(b"[1]")


def test_archives_in_archives_and_packed_files_in_them(tmp_path):
    inner = packed(tar_gz, {"deep/one.json.zst": zst(b"1"), "two.json": b"2"})
    middle = packed(nested_zip, {"inner.tgz": inner, "three.JSON.1.gz": gzip.compress(b"3"), "notes.txt": b"no"})
    write_zip(tmp_path / "outer.zip", {"middle.zip": middle, "four.json": b"4"})
    write_tar(tmp_path / "outer.tar.zst", [member("middle.zip", middle)], "w")
    (tmp_path / "outer.tar.zst").write_bytes(zst((tmp_path / "outer.tar.zst").read_bytes()))
    for name in ("outer.zip", "outer.tar.zst"):
        report = ImportReport(format="test")
        found = {file.source: file.data for file in read_files(tmp_path / name, report, suffixes=(".json",))}
        assert found.pop(f"{name}:four.json", b"4") == b"4"
        assert found == {
            f"{name}:middle.zip:inner.tgz:deep/one.json.zst": b"1",
            f"{name}:middle.zip:inner.tgz:two.json": b"2",
            f"{name}:middle.zip:three.JSON.1.gz": b"3",
        }
        assert report.to_json()["notes"][archives.SKIPPED]["examples"][0]["source"] == f"{name}:middle.zip:notes.txt"


def test_too_many_archives_in_each_other(tmp_path):
    data = packed(nested_zip, {"one.json": b"1"})
    for index in range(4):
        data = packed(nested_zip, {f"{index}.zip": data})
    (tmp_path / "x.zip").write_bytes(data)
    files, report = read(tmp_path / "x.zip")
    assert files == {}
    assert reasons(report) == {"archive in too many archives": 1}


def test_too_many_members(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    write_tar(tmp_path / "x.tar", [member(f"{i}.json", b"1") for i in range(5)], "w")
    write_zip(tmp_path / "x.zip", {f"{i}.json": b"1" for i in range(5)})
    assert len(read(tmp_path / "x.tar")[0]) == 3
    assert read(tmp_path / "x.zip")[0] == {}
    assert reasons(read(tmp_path)[1]) == {"file that unpacks to far too much": 2}


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_name_of_gigabytes_is_refused_in_small_memory(kind, tmp_path):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = kind, 2 * 2**30
    with gzip.open(tmp_path / "x.tar.gz", "wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(64):
            file.write(bytes(2**20))
    tracemalloc.start()
    files, report = read(tmp_path / "x.tar.gz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (files, reasons(report)) == ({}, {"file that unpacks to far too much": 1})
    assert "a name of 2147483648 bytes" in str(report)
    assert peak < 8 * 2**20


def test_a_file_with_holes_is_refused(tmp_path):
    info, file = member("one.json", b"", type=tarfile.GNUTYPE_SPARSE)
    files, report = read(write_tar(tmp_path / "x.tar", [(info, file)], "w"))
    assert (files, reasons(report)) == ({}, {"file that unpacks to far too much": 1})


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress), (".zst", zst)])
def test_a_packed_file_that_unpacks_to_far_too_much(suffix, pack, tmp_path):
    (tmp_path / f"x.json{suffix}").write_bytes(pack(bytes(3 * MIN_BOMB_BYTES)))
    files, report = read(tmp_path)
    if suffix == ".gz" and not reasons(
        report
    ):  # deflate packs 1000 times at most; the bound depends on the packed size
        assert len(next(iter(files.values()))) == 3 * MIN_BOMB_BYTES
    else:
        assert (files, reasons(report)) == ({}, {"file that unpacks to far too much": 1})


def test_a_rotated_log_is_read_from_its_oldest_part_on(tmp_path):
    names = ["log.json", "log.json.1", "log.json.2.gz", "log.json.10", "log.json-20250101", "a.json"]
    for name in names:
        (tmp_path / name).write_bytes(gzip.compress(b"1") if name.endswith(".gz") else b"1")
    found = [file.source for file in read_files(tmp_path, ImportReport(format="test"), suffixes=(".json",))]
    assert found == ["a.json", "log.json.10", "log.json.2.gz", "log.json.1", "log.json-20250101", "log.json"]


def test_a_broken_zst_says_how_to_go_on(tmp_path):
    (tmp_path / "a.json.zst").write_bytes(b"(\xb5/\xfd$" + b"0" * 40)
    report = read(tmp_path)[1]
    assert ".zst is not read: " in str(report)
    assert "unpack it with unzstd" in str(report)
