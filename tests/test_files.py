"""Arrays in files: read as they were written, or refused, whatever happened to the file."""

import numpy as np
import pytest

from mlresearch.files import read_arrays

ARRAYS = {"scores": np.random.default_rng(0).random((5, 3), np.float32), "label_ids": np.arange(40)}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back_or_a_changed_byte_is_told(save, tmp_path):
    path = tmp_path / "arrays.npz"
    save(path, allow_pickle=False, **ARRAYS)
    content = path.read_bytes()
    refused = 0
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        try:
            arrays = read_arrays(path)
        except ValueError:
            refused += 1
        else:  # the directory has no checksum: a date may be another one, an array missing, but none may differ
            assert arrays.keys() <= ARRAYS.keys()
            for name, array in arrays.items():
                np.testing.assert_array_equal(array, ARRAYS[name], strict=True)
    assert refused > len(content) // 2


@pytest.mark.parametrize("content", [b"", b"P", b"no archive", b"PK\x05\x06" + bytes(10)])
def test_what_is_no_archive_is_refused(content, tmp_path):
    (tmp_path / "arrays.npz").write_bytes(content)
    with pytest.raises(ValueError):  # noqa: PT011 - zipfile's and NumPy's own words
        read_arrays(tmp_path / "arrays.npz")


def test_objects_and_missing_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "arrays.npz")
    np.savez(tmp_path / "arrays.npz", objects=np.array([{}], object))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_arrays(tmp_path / "arrays.npz")
