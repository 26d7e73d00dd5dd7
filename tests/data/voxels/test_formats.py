"""Every format against every row of what can be broken: no fault passes in silence, and no good file is refused."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from segcal.data import faults
from segcal.data.case_files import ImageFile
from segcal.data.voxels.dicom import peek, write_series
from segcal.data.voxels.itk_files import header_field, write_itk
from segcal.data.voxels.nifti import write_nifti
from segcal.data.voxels.read import read_image, read_labels, same_grid
from segcal.volume import Volume

UID = "1.2.826.0.1.3680043.8.498.7.1"
PLAIN = ["a.nii", "a.mhd", "raw.mha", "raw.nrrd", "a.nhdr"]
PACKED = ["a.nii.gz", "packed.mha", "packed.mhd", "packed.nrrd", "packed.nhdr"]
FORMATS = [*PLAIN, *PACKED, "dicom"]


def oblique(spacing=(3.0, 0.7, 0.6), degrees=12.0):
    """A RAS affine of an LPS stack (x, y, z) that is tilted about the left-right axis."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    affine = np.eye(4)
    affine[:3, :3] = np.diag([-1, -1, 1]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.diag(spacing[::-1])
    affine[:3, 3] = [30.25, -12.5, 7.125]
    return affine


def volume(dtype=np.int16, seed=0, affine=None):
    array = np.random.default_rng(seed).integers(1, 900, (5, 7, 8)).astype(dtype)
    return Volume(array, (3.0, 0.7, 0.6), oblique() if affine is None else affine)


def write(folder: Path, name: str, content: Volume) -> ImageFile:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    if name == "dicom":
        write_series(path, content, UID, "p1", "1.2.3", "t2_tse_tra")
        return ImageFile(tuple(sorted(path.iterdir())), series=UID)
    if ".nii" in name:
        write_nifti(path, content)
    else:
        plain = folder / f"plain{path.suffix}"
        write_itk(plain, content)
        image = sitk.ReadImage(str(plain))
        for left_over in folder.glob("plain*"):
            left_over.unlink()
        sitk.WriteImage(image, str(path), useCompression=name.startswith("packed"))
    return ImageFile((path,))


def voxel_path(image: ImageFile) -> Path:
    """The file that holds the voxels: the header's companion where there is one."""
    beside = [path for path in image.paths[0].parent.iterdir() if path not in image.paths]
    return beside[0] if beside and not image.series else image.paths[len(image.paths) // 2]


def fault_of(image, root, kind, read=read_image, *more):
    with pytest.raises(kind) as caught:
        read(image, root, "case7", *more)
    message = str(caught.value)
    assert message.startswith("case7: ")
    assert ", got " in message
    assert "; " in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", FORMATS)
def test_a_tilted_volume_comes_back_where_it_lay(tmp_path, name):
    expected = volume()
    back = read_image(write(tmp_path, name, expected), tmp_path, "c")
    np.testing.assert_array_equal(back.array, expected.array)
    assert back.array.dtype == np.float32
    np.testing.assert_allclose(back.affine, expected.affine, atol=1e-4)
    assert back.spacing_mm == pytest.approx(expected.spacing_mm, rel=1e-5)


@pytest.mark.parametrize("name", ["a.mhd", "raw.mha", "packed.mha", "packed.nrrd", "raw.nrrd", "a.nhdr"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.float32, np.float64])
def test_every_kind_of_number(tmp_path, name, dtype):
    content = Volume(volume().array.clip(0, 100).astype(dtype), (3.0, 0.7, 0.6), oblique())
    np.testing.assert_array_equal(read_image(write(tmp_path, name, content), tmp_path, "c").array, content.array)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("cut", [1, 40, 200])
def test_truncated(tmp_path, name, cut):
    image = write(tmp_path, name, volume())
    path = voxel_path(image)
    path.write_bytes(path.read_bytes()[: -min(cut, path.stat().st_size - 30)])
    fault_of(image, tmp_path, faults.Truncated)


@pytest.mark.parametrize("name", ["a.mhd", "raw.mha", "packed.nrrd"])
def test_simpleitk_alone_would_fill_with_zeros_or_raise(tmp_path, name):
    """Why the voxels are read here. Should this ever fail, SimpleITK has changed."""
    image = write(tmp_path, name, volume())
    path = voxel_path(image)
    path.write_bytes(path.read_bytes()[:-100])
    try:
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(image.paths[0])))
    except RuntimeError:
        return
    assert (array == 0).any()


@pytest.mark.parametrize("name", PACKED)
def test_a_flipped_bit_in_a_compressed_file(tmp_path, name):
    image = write(tmp_path, name, volume())
    expected = read_image(image, tmp_path, "c")
    path = voxel_path(image)
    good = path.read_bytes()
    start = good.find(b"\n\n") + 2 if name == "packed.nrrd" else good.find(b"LOCAL\n") + 6 if ".mha" in name else 10
    silent = 0
    for position in range(start + 2, len(good), 7):
        broken = bytearray(good)
        broken[position] ^= 1 << (position % 8)
        path.write_bytes(bytes(broken))
        try:
            back = read_image(image, tmp_path, "c")
        except faults.DataFault:
            continue
        np.testing.assert_array_equal(back.array, expected.array)  # a bit of padding, or of the gzip header
        silent += 1
    assert silent < 4


@pytest.mark.parametrize("name", PACKED)
def test_the_checksum_alone(tmp_path, name):
    image = write(tmp_path, name, volume())
    path = voxel_path(image)
    content = bytearray(path.read_bytes())
    content[-1 if ".mh" in name else -8] ^= 0xFF  # zlib ends with its checksum, gzip with checksum and length
    path.write_bytes(bytes(content))
    assert "checksum" in fault_of(image, tmp_path, faults.Corrupt)


@pytest.mark.parametrize("name", [*PLAIN, *PACKED])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(tmp_path, name, bad):
    content = volume(np.float32)
    content.array[1, 2, 3] = bad
    assert "1 NaN or infinite" in fault_of(write(tmp_path, name, content), tmp_path, faults.NotFinite)


def test_not_finite_in_dicom(tmp_path):
    """Pixels are whole numbers there, but the slope is not."""
    image = write(tmp_path, "dicom", volume())
    data = pydicom.dcmread(image.paths[2])
    data.RescaleSlope, data.RescaleIntercept = "1e39", "0"
    data.save_as(image.paths[2])
    fault_of(image, tmp_path, faults.NotFinite)


def shapes(path, ends):
    """Put another shape into a text header."""
    content = path.read_bytes()
    for old, new in ends:
        assert old in content
        content = content.replace(old, new)
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["a.mhd", "raw.mha", "packed.mha", "packed.nrrd", "a.nhdr"])
def test_a_huge_volume_is_refused_before_it_is_read(tmp_path, name):
    image = write(tmp_path, name, volume())
    key = b"DimSize = 8 7 5" if ".mh" in name else b"sizes: 8 7 5"
    shapes(image.paths[0], [(key, key.replace(b"8 7 5", b"2000 2000 2000"))])
    assert "8000000000 (2000x2000x2000)" in fault_of(image, tmp_path, faults.TooLarge)


def test_a_small_packed_file_that_unfolds_beyond_its_header_is_refused(tmp_path):
    image = write(tmp_path, "packed.nrrd", Volume(np.zeros((50, 70, 80), np.int16), (3.0, 0.7, 0.6), oblique()))
    shapes(image.paths[0], [(b"sizes: 80 70 50", b"sizes: 80 7 5")])
    fault_of(image, tmp_path, faults.Unreadable)


@pytest.mark.parametrize("name", FORMATS)
def test_a_huge_file_is_refused_before_it_is_read(tmp_path, name):
    image = write(tmp_path, name, volume())
    with image.paths[0].open("r+b") as file:
        file.truncate(5 << 30)  # sparse: it takes no disk
    fault_of(image, tmp_path, faults.TooLarge)


def test_a_huge_dicom_slice(tmp_path):
    image = write(tmp_path, "dicom", volume())
    data = pydicom.dcmread(image.paths[0])
    data.Rows, data.Columns = 65535, 65535
    data.save_as(image.paths[0])
    fault_of(image, tmp_path, faults.TooLarge)


SHEARED = np.array([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]])
SINGULAR = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]])


@pytest.mark.parametrize("name", [*PLAIN[1:], *PACKED[1:]])
@pytest.mark.parametrize("direction", ["1 0.5 0 0 1 0 0 0 1", "1 0 0 1 0 0 0 0 1"])
def test_sheared_or_singular_axes(tmp_path, name, direction):
    image = write(tmp_path, name, Volume(volume().array, (1.0, 1.0, 1.0), np.diag([-1.0, -1.0, 1.0, 1.0])))
    if ".mh" in name:
        shapes(image.paths[0], [(b"TransformMatrix = 1 0 0 0 1 0 0 0 1", f"TransformMatrix = {direction}".encode())])
    else:
        numbers = direction.split()
        rows = " ".join(f"({','.join(numbers[i : i + 3])})" for i in (0, 3, 6))
        shapes(image.paths[0], [(b"(1,0,0) (0,1,0) (0,0,1)", rows.encode())])
    fault_of(image, tmp_path, faults.BadGeometry)


@pytest.mark.parametrize("orientation", [[1, 0, 0, 0.5, 1, 0], [1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0]])
def test_sheared_or_singular_axes_in_dicom(tmp_path, orientation):
    image = write(tmp_path, "dicom", volume())
    for path in image.paths:
        data = pydicom.dcmread(path)
        data.ImageOrientationPatient = orientation
        data.save_as(path)
    fault_of(image, tmp_path, faults.BadGeometry)


@pytest.mark.parametrize("name", ["a.mhd", "packed.mha", "packed.nrrd", "a.nii.gz", "dicom"])
@pytest.mark.parametrize("value", [77, -3])
def test_labels_outside_the_set(tmp_path, name, value):
    if name == "dicom" and value < 0:
        value = 99  # unsigned pixels
    content = Volume(np.zeros((5, 7, 8), np.int16), (3.0, 0.7, 0.6), oblique())
    content.array[1, 1, 1], content.array[2, 2, 2] = 1, value
    image = write(tmp_path, name, content)
    assert f"must be 0, 1, got {value};" in fault_of(image, tmp_path, faults.UnknownLabel, read_labels, {1: 1})


@pytest.mark.parametrize("name", FORMATS)
def test_empty_absent_and_garbage(tmp_path, name):
    image = write(tmp_path, name, volume())
    path = image.paths[0]
    path.write_bytes(b"not an image " * 50)
    fault_of(image, tmp_path, (faults.Unreadable, faults.Corrupt))
    path.write_bytes(os.urandom(2000))
    fault_of(image, tmp_path, (faults.Unreadable, faults.Corrupt))
    path.write_bytes(b"")
    fault_of(image, tmp_path, faults.EmptyFile)
    path.unlink()
    fault_of(image, tmp_path, faults.MissingChannel)


@pytest.mark.parametrize("name", FORMATS)
def test_a_link_that_leaves_the_folder(tmp_path, name):
    image = write(tmp_path / "outside", name, volume())
    inside = tmp_path / "cohort"
    inside.mkdir()
    links = []
    for path in image.paths:
        links.append(inside / path.name)
        links[-1].symlink_to(path)
    fault_of(ImageFile(tuple(links), series=image.series), inside, faults.UnsafePath)


@pytest.mark.parametrize("name", ["a.mhd", "a.nhdr"])
def test_the_voxel_file_of_a_header(tmp_path, name):
    image = write(tmp_path / "cohort", name, volume())
    root, raw = tmp_path / "cohort", voxel_path(image)
    old = raw.name.encode()
    for bad in (b"../secret.raw", str(tmp_path / "secret.raw").encode()):
        shutil.copy(raw, tmp_path / "secret.raw")
        shapes(image.paths[0], [(old, bad)])
        fault_of(image, root, faults.UnsafePath)
        old = bad
    shapes(image.paths[0], [(old, raw.name.encode())])
    read_image(image, root, "c")
    raw.rename(tmp_path / "elsewhere.raw")
    assert f"add {raw.name}" in fault_of(image, root, faults.MissingChannel)
    raw.symlink_to(tmp_path / "elsewhere.raw")
    fault_of(image, root, faults.UnsafePath)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("a.mhd", b"ElementDataFile", b"HeaderSize = 12\nElementDataFile"),
        ("a.mhd", b"ElementDataFile = a.raw", b"ElementDataFile = LIST"),
        ("raw.nrrd", b"encoding: raw", b"encoding: ascii"),
        ("a.nhdr", b"encoding: raw", b"encoding: raw\nbyte skip: 12"),
    ],
)
def test_rare_ways_to_store_voxels_are_refused_not_guessed(tmp_path, name, old, new):
    image = write(tmp_path, name, volume())
    shapes(image.paths[0], [(old, new)])
    fault_of(image, tmp_path, faults.Unreadable)


def test_big_endian_metaimage(tmp_path):
    image = write(tmp_path, "a.mhd", volume())
    raw = voxel_path(image)
    raw.write_bytes(np.frombuffer(raw.read_bytes(), "<i2").astype(">i2").tobytes())
    shapes(image.paths[0], [(b"BinaryDataByteOrderMSB = False", b"BinaryDataByteOrderMSB = True")])
    np.testing.assert_array_equal(read_image(image, tmp_path, "c").array, volume().array)


def test_the_sform_that_differs_has_no_say_in_other_formats(tmp_path):
    """For NIfTI see test_nifti: identity_sform_is_not_believed. Other formats know one affine only."""
    path = write(tmp_path, "a.nii.gz", volume()).paths[0]
    image = nib.load(path)
    assert np.allclose(image.get_qform(), image.get_sform(), atol=1e-4)


def test_keys_of_a_users_own(tmp_path):
    for name in ("a.mha", "a.nrrd"):
        write_itk(tmp_path / name, volume(), {"ReferencedSeriesInstanceUID": UID})
        assert header_field(tmp_path / name, "c", "ReferencedSeriesInstanceUID") == UID
        assert header_field(tmp_path / name, "c", "nothing") == ""


def test_components_of_a_4d_file(tmp_path):
    stacked = np.stack([volume(seed=i).array.transpose(2, 1, 0) for i in range(3)], axis=-1)
    nib.Nifti1Image(stacked, oblique()).to_filename(tmp_path / "a.nii.gz")
    for index in range(3):
        image = ImageFile((tmp_path / "a.nii.gz",), component=index)
        np.testing.assert_array_equal(read_image(image, tmp_path, "c").array, volume(seed=index).array)
    fault_of(ImageFile((tmp_path / "a.nii.gz",), component=3), tmp_path, faults.Unreadable)
    fault_of(ImageFile((tmp_path / "a.nii.gz",)), tmp_path, faults.Unreadable)


NUMBERS = {
    "ImageOrientationPatient": b"\x20\x00\x37\x00DS",
    "ImagePositionPatient": b"\x20\x00\x32\x00DS",
    "PixelSpacing": b"\x28\x00\x30\x00DS",
    "RescaleSlope": b"\x28\x00\x53\x10DS",
}


@pytest.mark.parametrize("tag", NUMBERS)
def test_numbers_of_a_dicom_header_that_are_none(tmp_path, tag):
    image = write(tmp_path, "dicom", volume())
    data = pydicom.dcmread(image.paths[2])
    data.RescaleSlope = "1.5"
    data.save_as(image.paths[2])
    content = image.paths[2].read_bytes()
    at = content.index(NUMBERS[tag]) + 8
    image.paths[2].write_bytes(content[:at] + b"x" + content[at + 1 :])
    fault_of(image, tmp_path, faults.Unreadable)


class TestSeries:
    @pytest.fixture
    def image(self, tmp_path):
        return write(tmp_path, "dicom", volume())

    def test_slices_are_ordered_by_where_they_lie_not_by_name(self, image, tmp_path):
        for index, path in enumerate(image.paths):
            path.rename(path.with_name(f"{(index * 3) % 5}.dcm"))
        shuffled = ImageFile(tuple(sorted(image.paths[0].parent.iterdir())), series=UID)
        np.testing.assert_array_equal(read_image(shuffled, tmp_path, "c").array, volume().array)

    def test_another_series_in_the_same_folder_is_left_out(self, image, tmp_path):
        write_series(tmp_path / "x", volume(seed=3), f"{UID}.9", "p1", "1.2.3", "adc")
        for path in (tmp_path / "x").iterdir():
            path.rename(image.paths[0].parent / f"other-{path.name}")
        both = ImageFile(tuple(sorted(image.paths[0].parent.iterdir())), series=UID)
        np.testing.assert_array_equal(read_image(both, tmp_path, "c").array, volume().array)
        fault_of(ImageFile(both.paths, series="1.2.3.4.5"), tmp_path, faults.MissingCase)

    def test_a_missing_slice(self, image, tmp_path):
        fault_of(ImageFile((*image.paths[:2], *image.paths[3:]), series=UID), tmp_path, faults.BadGeometry)

    def test_a_slice_twice(self, image, tmp_path):
        shutil.copy(image.paths[1], tmp_path / "again.dcm")
        fault_of(ImageFile((*image.paths, tmp_path / "again.dcm"), series=UID), tmp_path, faults.DoubledCase)

    def test_slices_of_two_sizes(self, image, tmp_path):
        data = pydicom.dcmread(image.paths[1])
        data.PixelSpacing = ["0.9", "0.9"]
        data.save_as(image.paths[1])
        fault_of(image, tmp_path, faults.GridMismatch)

    @pytest.mark.parametrize("tag", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
    def test_slices_that_do_not_say_where_they_lie(self, image, tmp_path, tag):
        data = pydicom.dcmread(image.paths[1])
        del data[tag]
        data.save_as(image.paths[1])
        assert tag in fault_of(image, tmp_path, faults.BadGeometry)

    def test_slope_and_intercept_count(self, image, tmp_path):
        for path in image.paths:
            data = pydicom.dcmread(path)
            data.RescaleSlope, data.RescaleIntercept = "2", "-5"
            data.save_as(path)
        np.testing.assert_array_equal(read_image(image, tmp_path, "c").array, 2.0 * volume().array - 5)

    def test_compressed_pixels(self, image, tmp_path):
        for path in image.paths:
            data = pydicom.dcmread(path)
            data.compress(pydicom.uid.RLELossless)
            data.save_as(path)
        np.testing.assert_array_equal(read_image(image, tmp_path, "c").array, volume().array)
        cut = image.paths[2].read_bytes()
        image.paths[2].write_bytes(cut[:-60])
        fault_of(image, tmp_path, (faults.Truncated, faults.Unreadable))

    def test_a_peek_tells_the_series_and_no_image_is_none(self, image, tmp_path):
        header = peek(image.paths[0])
        assert (header.uid, header.patient, header.description, header.axial) == (UID, "p1", "t2_tse_tra", True)
        (tmp_path / "text.dcm").write_text("hello")
        assert peek(tmp_path / "text.dcm") is None or not peek(tmp_path / "text.dcm").uid


def test_many_threads_may_write_into_one_folder(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: write_itk(tmp_path / f"c{i}.mhd", volume(seed=i)), range(40)))
    assert len(list(tmp_path.iterdir())) == 80
    for index in range(0, 40, 13):
        back = read_image(ImageFile((tmp_path / f"c{index}.mhd",)), tmp_path, "c")
        np.testing.assert_array_equal(back.array, volume(seed=index).array)


def test_a_label_that_is_turned_against_its_image(tmp_path):
    """1.1 degrees: no entry of the affine is off by 0.01, a corner is off by millimetres."""
    c, s = np.cos(np.deg2rad(1.1)), np.sin(np.deg2rad(1.1))
    affine = np.diag([-0.5, -0.5, 3.0, 1.0])
    turned = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ affine
    image, label = (Volume(np.zeros((2, 320, 320)), (3.0, 0.5, 0.5), a) for a in (affine, turned))
    assert np.abs(affine - turned).max() < 0.01
    with pytest.raises(faults.GridMismatch, match=r"corners that lie 4\.\d+ mm apart"):
        same_grid("c", "label", label, "t2", image)
    rounded = Volume(image.array, image.spacing_mm, np.round(affine + 1e-5, 4))
    same_grid("c", "label", rounded, "t2", image)


@pytest.mark.parametrize(
    ("name", "upper"), [("a.nii.gz", "A.NII.GZ"), ("a.mhd", "A.MHD"), ("raw.mha", "A.MHA"), ("packed.nrrd", "A.NRRD")]
)
def test_upper_case_endings(tmp_path, name, upper):
    image = write(tmp_path, name, volume())
    path = image.paths[0].rename(tmp_path / upper)
    np.testing.assert_array_equal(read_image(ImageFile((path,)), tmp_path, "c").array, volume().array)


def test_local_in_any_case_and_a_fourth_axis_of_one(tmp_path):
    image = write(tmp_path, "raw.mha", volume())
    shapes(image.paths[0], [(b"ElementDataFile = LOCAL", b"ElementDataFile = Local")])
    np.testing.assert_array_equal(read_image(image, tmp_path, "c").array, volume().array)
    four = sitk.JoinSeries(sitk.ReadImage(str(write(tmp_path / "x", "a.mhd", volume()).paths[0])))
    sitk.WriteImage(four, str(tmp_path / "four.mha"))
    back = read_image(ImageFile((tmp_path / "four.mha",)), tmp_path, "c")
    np.testing.assert_array_equal(back.array, volume().array)
    np.testing.assert_allclose(back.affine, volume().affine, atol=1e-4)


def test_voxels_as_text_are_refused(tmp_path):
    image = write(tmp_path, "a.mhd", volume())
    shapes(image.paths[0], [(b"BinaryData = True", b"BinaryData = False")])
    fault_of(image, tmp_path, faults.Unreadable)


def test_two_series_in_one_folder_are_not_woven_into_one(tmp_path):
    image = write(tmp_path, "dicom", volume())
    between = volume(seed=2)
    between.affine[:3, 3] += between.affine[:3, 2] / 2
    write_series(tmp_path / "x", between, f"{UID}.9", "p1", "1.2.3", "t2 repeat")
    both = (*image.paths, *sorted((tmp_path / "x").iterdir()))
    assert "got 2 series" in fault_of(ImageFile(both), tmp_path, faults.AmbiguousSeries)


def test_deflated_dicom_is_refused_before_it_is_inflated(tmp_path):
    image = write(tmp_path, "dicom", volume())
    data = pydicom.dcmread(image.paths[1])
    data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    data.save_as(image.paths[1])
    assert "deflated" in fault_of(image, tmp_path, faults.Unreadable)


def test_directions_that_differ_in_the_last_digit_are_the_same(tmp_path):
    image = write(tmp_path, "dicom", volume(affine=oblique(degrees=np.degrees(np.arcsin(0.0125)))))
    data = pydicom.dcmread(image.paths[2])
    axes = [float(value) for value in data.ImageOrientationPatient]
    data.ImageOrientationPatient = [f"{value + 2e-7:.10f}" for value in axes]
    data.save_as(image.paths[2])
    assert read_image(image, tmp_path, "c").array.shape == (5, 7, 8)


@pytest.mark.parametrize("name", ["x" * 300 + ".nii", "a\0b.nii"])
def test_names_that_no_file_can_have(tmp_path, name):
    fault_of(ImageFile((tmp_path / name,)), tmp_path, faults.MissingChannel)
