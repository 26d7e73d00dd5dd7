"""The reader against broken files: no fault passes in silence, and no good file is refused."""

import gzip
import logging
import struct

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segcal.data import faults
from segcal.data.case_files import ImageFile
from segcal.data.voxels.nifti import write_nifti
from segcal.data.voxels.read import read_image, read_labels, same_grid
from segcal.volume import Volume

AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])
ARRAY = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)  # (X, Y, Z)


def save(path, array=ARRAY, affine=AFFINE, kind=nib.Nifti1Image, **header):
    image = kind(array, affine)
    for name, value in header.items():
        image.header[name] = value
    image.to_filename(path)
    return path


def read(path):
    return read_image(ImageFile((path,)), path.parent, "case7")


def fault_of(path, kind):
    with pytest.raises(kind) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith("case7: ")
    assert path.name in message
    assert ", got " in message
    assert "; " in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_good_files_are_read_with_their_geometry(tmp_path, name, dtype):
    volume = read(save(tmp_path / name, ARRAY.astype(dtype)))
    np.testing.assert_array_equal(volume.array, ARRAY.transpose(2, 1, 0))
    assert volume.spacing_mm == (2.0, 1.0, 1.0)
    np.testing.assert_allclose(volume.affine, AFFINE)


def test_nifti2_big_endian_scaled_and_trailing_axis(tmp_path):
    expected = ARRAY.transpose(2, 1, 0)
    np.testing.assert_array_equal(read(save(tmp_path / "n2.nii.gz", kind=nib.Nifti2Image)).array, expected)
    big = nib.Nifti1Image(ARRAY, AFFINE, header=nib.Nifti1Header(endianness=">"))
    big.to_filename(tmp_path / "big.nii")
    np.testing.assert_array_equal(read(tmp_path / "big.nii").array, expected)
    np.testing.assert_array_equal(read(save(tmp_path / "4d.nii", ARRAY[..., None])).array, expected)
    scaled = nib.Nifti1Image(ARRAY, AFFINE)
    scaled.header.set_slope_inter(2.0, 5.0)
    (tmp_path / "scaled.nii").write_bytes(scaled.to_bytes())
    np.testing.assert_array_equal(read(tmp_path / "scaled.nii").array, 2.0 * expected + 5.0)


def test_oblique_axes_at_right_angles_are_fine(tmp_path):
    c, s = np.cos(0.2), np.sin(0.2)
    affine = np.array([[1, 0, 0, 3], [0, c, -2 * s, 4], [0, s, 2 * c, 5], [0, 0, 0, 1.0]])
    volume = read(save(tmp_path / "oblique.nii.gz", affine=affine))
    assert volume.spacing_mm == pytest.approx((2.0, 1.0, 1.0))


@pytest.mark.parametrize("kept", [3, 100, 351, 352, 400, -1])
def test_truncated_plain_file(tmp_path, kept):
    path = save(tmp_path / "a.nii")
    path.write_bytes(path.read_bytes()[:kept])
    fault_of(path, (faults.Truncated, faults.Unreadable))


@pytest.mark.parametrize("cut", [1, 4, 9, 60])
def test_truncated_gzip(tmp_path, cut):
    path = save(tmp_path / "a.nii.gz")
    path.write_bytes(path.read_bytes()[:-cut])
    fault_of(path, faults.Truncated)


def test_wrong_checksum_alone(tmp_path):
    path = save(tmp_path / "a.nii.gz")
    content = bytearray(path.read_bytes())
    content[-8] ^= 0xFF
    path.write_bytes(bytes(content))
    assert "checksum" in fault_of(path, faults.Corrupt)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_never_changes_a_voxel_in_silence(tmp_path, position, bit):
    path = save(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 900, (6, 6, 6), dtype=np.int16))
    good = read(path)
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1 << bit
    broken = tmp_path / "b.nii.gz"
    broken.write_bytes(bytes(content))
    try:
        volume = read(broken)
    except faults.DataFault:
        return
    np.testing.assert_array_equal(volume.array, good.array)
    np.testing.assert_array_equal(volume.affine, good.affine)


def test_empty_and_absent_files(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"")
    fault_of(tmp_path / "a.nii.gz", faults.EmptyFile)
    fault_of(tmp_path / "b.nii.gz", faults.MissingChannel)


def test_text_that_is_called_an_image(tmp_path):
    path = tmp_path / "a.nii"
    path.write_text("not an image " * 100)
    fault_of(path, faults.Unreadable)
    path = tmp_path / "a.nii.gz"
    path.write_text("not gzip " * 100)
    fault_of(path, faults.Corrupt)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite(tmp_path, bad):
    array = ARRAY.astype(np.float32)
    array[1, 2, 3] = bad
    assert "1 NaN or infinite" in fault_of(save(tmp_path / "a.nii.gz", array), faults.NotFinite)


def test_a_small_file_that_promises_a_huge_volume_is_refused_before_it_is_read(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_shape((2000, 2000, 2000))
    header.set_data_dtype(np.int16)
    path = tmp_path / "huge.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + b"\0" * 1000))
    assert "8000000000 (2000x2000x2000)" in fault_of(path, faults.TooLarge)


def test_four_real_dimensions(tmp_path):
    fault_of(save(tmp_path / "a.nii", np.stack([ARRAY, ARRAY], axis=-1)), faults.Unreadable)


def test_identity_sform_is_not_believed(tmp_path, caplog):
    image = nib.Nifti1Image(ARRAY, np.diag([1.5, 1.5, 10.0, 1.0]))
    image.set_qform(np.diag([1.5, 1.5, 10.0, 1.0]), code=1)
    content = bytearray(image.to_bytes())
    struct.pack_into("<12f", content, 280, *np.eye(4)[:3].ravel())  # srow_x, srow_y, srow_z
    (tmp_path / "acdc.nii").write_bytes(bytes(content))
    np.testing.assert_array_equal(nib.load(tmp_path / "acdc.nii").affine, np.eye(4))  # the trap
    with caplog.at_level(logging.WARNING):
        volume = read(tmp_path / "acdc.nii")
    assert volume.spacing_mm == (10.0, 1.5, 1.5)
    np.testing.assert_allclose(np.abs(np.diag(volume.affine)), [1.5, 1.5, 10.0, 1.0])
    assert "pixdim and qform are used" in caplog.text


@pytest.mark.parametrize(
    "affine",
    [
        [[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]],  # sheared
        [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]],  # singular
    ],
)
def test_affines_no_scanner_writes(tmp_path, affine):
    image = nib.Nifti1Image(ARRAY, np.diag([1.0, 1.0, 2.0, 1.0]))
    image.set_sform(np.array(affine, dtype=float), code=1)
    image.set_qform(None, code=0)
    columns = np.linalg.norm(np.array(affine, dtype=float)[:3, :3], axis=0)
    content = bytearray(image.to_bytes())
    struct.pack_into("<3f", content, 80, *columns)  # pixdim agrees with the columns, so only the angles are wrong
    (tmp_path / "a.nii").write_bytes(bytes(content))
    fault_of(tmp_path / "a.nii", faults.BadGeometry)


def test_a_link_that_leaves_the_folder(tmp_path):
    outside = save(tmp_path / "outside.nii")
    (tmp_path / "cohort").mkdir()
    link = tmp_path / "cohort" / "a.nii"
    link.symlink_to(outside)
    with pytest.raises(faults.UnsafePath, match="must lie below"):
        read_image(ImageFile((link,)), tmp_path / "cohort", "case7")


@pytest.mark.parametrize(("value", "shown"), [(77, "77"), (-3, "-3"), (0.5, "0.5")])
def test_labels_outside_the_set(tmp_path, value, shown):
    array = np.zeros((4, 4, 4), dtype=np.float32)
    array[0, 0, 0], array[1, 1, 1] = 4, value
    path = save(tmp_path / "seg.nii.gz", array)
    with pytest.raises(faults.UnknownLabel, match=rf"must be 0, 1, 2, 4, got {shown};"):
        read_labels(ImageFile((path,)), tmp_path, "case7", {1: 1, 2: 2, 4: 3})


def test_labels_of_the_set(tmp_path):
    array = np.zeros((4, 4, 4), dtype=np.uint8)
    array[0, 0, 0] = 4
    image = ImageFile((save(tmp_path / "seg.nii.gz", array),))
    assert read_labels(image, tmp_path, "c", {1: 1, 2: 2, 4: 3}).array.max() == 3


def test_grids_must_agree():
    volume = Volume(np.zeros((2, 3, 4)), (2, 1, 1), AFFINE)
    same_grid("c", "seg", volume, "flair", volume)
    shifted = AFFINE.copy()
    shifted[0, 3] = 0.5
    with pytest.raises(faults.GridMismatch, match=r"seg must lie on the grid of flair, got corners that lie 0.5 mm"):
        same_grid("c", "seg", Volume(np.zeros((2, 3, 4)), (2, 1, 1), shifted), "flair", volume)
    with pytest.raises(faults.GridMismatch, match=r"shape \(2, 3, 5\) against \(2, 3, 4\)"):
        same_grid("c", "seg", Volume(np.zeros((2, 3, 5)), (2, 1, 1), AFFINE), "flair", volume)


def test_written_volumes_come_back_and_equal_voxels_make_equal_bytes(tmp_path):
    volume = Volume(ARRAY.transpose(2, 1, 0), (2.0, 1.0, 1.0), AFFINE)
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / "new" / name, volume)
    back = read(tmp_path / "new" / "a.nii.gz")
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_allclose(back.affine, AFFINE)
    assert (tmp_path / "new" / "a.nii.gz").read_bytes() == (tmp_path / "new" / "b.nii.gz").read_bytes()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.nii.gz", "b.nii.gz"]


@pytest.mark.parametrize("offset", [np.nan, np.inf, -1.0, 1e30, 1e9])
@pytest.mark.parametrize("end", [".nii", ".nii.gz"])
def test_voxels_that_begin_nowhere(tmp_path, offset, end):
    """A broken header may say anything; 1e30 ended in a MemoryError."""
    path = save(tmp_path / f"a{end}", np.ones((2, 3, 4), dtype=np.int16))
    content = bytearray(gzip.decompress(path.read_bytes()) if end == ".nii.gz" else path.read_bytes())
    content[108:112] = np.float32(offset).tobytes()
    path.write_bytes(gzip.compress(bytes(content)) if end == ".nii.gz" else bytes(content))
    fault_of(path, (faults.Unreadable, faults.Truncated))


def patched(path, offset, fmt, *values):
    content = bytearray(path.read_bytes())
    struct.pack_into(fmt, content, offset, *values)
    path.write_bytes(bytes(content))
    return path


LPS_3MM = np.diag([-1.0, -1.0, 3.0, 1.0])


def with_forms(path, sform, qform, affine=LPS_3MM):
    image = nib.Nifti1Image(np.ones((4, 5, 3), np.int16), affine)
    image.set_sform(affine, sform)
    image.set_qform(affine, qform)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("quaternion", [(0.6, 0.6, 0.6), (0.0, 0.0, 1.000002)])
@pytest.mark.parametrize("qform_code", [0, 1])
def test_a_rounded_or_unused_quaternion_is_no_fault_where_the_sform_is_good(tmp_path, quaternion, qform_code):
    path = patched(with_forms(tmp_path / "a.nii", 1, qform_code), 256, "<3f", *quaternion)
    volume = read(path)
    np.testing.assert_allclose(volume.affine, LPS_3MM)
    assert volume.spacing_mm == (3, 1, 1)


def test_a_rounded_quaternion_alone_is_read_and_one_that_is_none_is_refused(tmp_path):
    path = with_forms(tmp_path / "a.nii", 0, 1)
    np.testing.assert_allclose(read(patched(path, 256, "<3f", 0.0, 0.0, 1.000002)).affine, LPS_3MM, atol=1e-4)
    fault_of(patched(path, 256, "<3f", 0.6, 0.6, 0.6), (faults.BadGeometry, faults.Unreadable))


def test_an_identity_sform_of_the_right_size_is_not_believed_either(tmp_path, caplog):
    """1 mm voxels: nothing but the qform tells that left is left."""
    path = with_forms(tmp_path / "a.nii", 1, 1, np.diag([-1.0, -1.0, 1.0, 1.0]))
    patched(path, 280, "<12f", *np.eye(4)[:3].ravel())
    with caplog.at_level(logging.WARNING):
        np.testing.assert_allclose(np.diag(read(path).affine), [-1, -1, 1, 1])
    assert "place it differently; the qform is used" in caplog.text


def test_colours_and_complex_numbers_are_refused(tmp_path):
    colours = np.zeros((4, 5, 3), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    for name, array in (("rgb", colours), ("complex", np.full((4, 5, 3), 1 + 5j, np.complex64))):
        nib.save(nib.Nifti1Image(array, LPS_3MM), tmp_path / f"{name}.nii")
        assert "must hold real numbers" in fault_of(tmp_path / f"{name}.nii", faults.Unreadable)


@pytest.mark.parametrize("kind", [np.int16, np.uint8])
def test_labels_that_were_stored_with_a_slope_are_whole_again(tmp_path, kind):
    labels = np.zeros((6, 5, 3))
    labels[1:3], labels[3], labels[4] = 1, 2, 4
    header = nib.Nifti1Header()
    header.set_data_dtype(kind)
    nib.save(nib.Nifti1Image(labels, LPS_3MM, header), tmp_path / "seg.nii.gz")
    stored = np.unique(nib.load(tmp_path / "seg.nii.gz").get_fdata())
    assert stored[1] != 1  # 1.00002 or 1.004
    label = read_labels(ImageFile((tmp_path / "seg.nii.gz",)), tmp_path, "case7", {1: 1, 2: 2, 4: 3})
    np.testing.assert_array_equal(label.array.T, np.select([labels == 1, labels == 2, labels == 4], [1, 2, 3], 0))
    nib.save(nib.Nifti1Image(labels + 0.3, LPS_3MM), tmp_path / "seg.nii.gz")
    with pytest.raises(faults.UnknownLabel, match=r"got 0.3, 1.3, 2.3, 4.3"):
        read_labels(ImageFile((tmp_path / "seg.nii.gz",)), tmp_path, "case7", {1: 1, 2: 2, 4: 3})


def test_metres_become_millimetres_and_odd_sizes_are_refused(tmp_path):
    image = nib.Nifti1Image(np.ones((4, 5, 3), np.int16), np.diag([-5e-4, -5e-4, 3e-3, 1]))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "a.nii")
    assert read(tmp_path / "a.nii").spacing_mm == pytest.approx((3, 0.5, 0.5))
    for side in (1000.0, 1e-6):
        nib.save(nib.Nifti1Image(np.ones((4, 5, 3), np.int16), np.diag([-side, -side, 3, 1])), tmp_path / "b.nii")
        assert "sides of 0.01 to 100 mm" in fault_of(tmp_path / "b.nii", faults.BadGeometry)


def test_a_small_shear_is_a_shear(tmp_path):
    sheared = LPS_3MM.copy()
    sheared[0, 1] = 0.05
    nib.save(nib.Nifti1Image(np.ones((4, 5, 3), np.int16), sheared), tmp_path / "a.nii")
    fault_of(tmp_path / "a.nii", faults.BadGeometry)


@pytest.mark.parametrize(
    ("offset", "fmt", "value"),
    [(108, "<f", 0.0), (344, "<4s", b"ni1\0"), (112, "<f", np.inf)],
    ids=["voxels in the header", "a pair of files", "infinite slope"],
)
def test_headers_that_would_be_misread(tmp_path, offset, fmt, value):
    path = patched(with_forms(tmp_path / "a.nii", 1, 1), offset, fmt, value)
    fault_of(path, faults.Unreadable)
