"""One picture: whole, or refused in one line that names it."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vcqlib.data.pictures import EXTENSIONS, image_mode, open_image, to_pixels


def noise(mode="RGB", size=(12, 9)):
    small = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    return Image.fromarray(small).resize(size).convert(mode)


def encoded(form, mode="RGB", **options):
    file = BytesIO()
    noise(mode).save(file, form, **options)
    return file.getvalue()


FORMS = {
    "JPEG": encoded("JPEG"),
    "progressive JPEG": encoded("JPEG", progressive=True),
    "grey JPEG": encoded("JPEG", "L"),
    "JPEG with EXIF": encoded("JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
    "PNG": encoded("PNG"),
    "palette PNG": encoded("PNG", "P"),
    "GIF": encoded("GIF", "P"),
    "BMP": encoded("BMP"),
    "TIFF": encoded("TIFF"),
    "LZW TIFF": encoded("TIFF", compression="tiff_lzw"),
    "JPEG TIFF": encoded("TIFF", compression="jpeg"),
    "WEBP": encoded("WEBP"),
    "lossless WEBP": encoded("WEBP", lossless=True),
    "PPM": encoded("PPM"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_cut_anywhere_is_the_same_or_refused_by_name(tmp_path, form):
    path = tmp_path / "picture"
    path.write_bytes(FORMS[form])
    whole, refused = to_pixels(open_image(path), 3), 0
    for length in range(len(FORMS[form])):
        path.write_bytes(FORMS[form][:length])
        try:
            assert np.array_equal(to_pixels(open_image(path), 3), whole), length
        except ValueError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error), (length, error)
    assert refused >= len(FORMS[form]) - 25  # what follows the pixels may be missing


@pytest.mark.parametrize("form", FORMS)
def test_a_header_cut_anywhere_is_read_or_refused_by_name(form):
    for length in range(len(FORMS[form])):
        try:
            image_mode(BytesIO(FORMS[form][:length]), "row 7")
        except ValueError as error:
            assert str(error).startswith("row 7 is no image"), (length, error)


LONG = PngInfo()
LONG.add_text("a", "x" * 5_000_000, zip=True)
STRANGE = {
    "an animation": (encoded("GIF", "P", save_all=True, append_images=[noise("L")]), "holds 2 pic"),
    "an animated WEBP": (encoded("WEBP", save_all=True, append_images=[noise("L")]), "holds 2 pic"),
    "an animated PNG": (encoded("PNG", save_all=True, append_images=[noise("L")]), "holds 2 pict"),
    "pages": (
        encoded("TIFF", save_all=True, append_images=[noise()] * 3),
        "holds 4 pictures: save",
    ),
    "16 bits": (encoded("PNG", "I;16"), "has mode I;16: convert it to 8-bit grey or RGB"),
    "floats": (encoded("TIFF", "F"), "has mode F: convert it"),
    "a page of a web server": (b"<!DOCTYPE html><html>404</html>", "is no image that Pillow"),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "is no image that"),
    "nothing": (b"", "is no image that Pillow can read: replace or remove it"),
    "zeros": (bytes(5000), "is no image"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n", "is no image that"),
    "an icon": (encoded("ICO"), "is no image that"),
    "two in a row": (FORMS["PPM"] * 2, "holds several pictures: save each as a file"),
    "16 bits of grey": (b"P5 2 2 65535 " + bytes(8), "has mode I: convert it"),
    "text without end": (encoded("PNG", pnginfo=LONG), r"is no image that Pillow can read \(Decom"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no image"),
}


@pytest.mark.parametrize("case", STRANGE)
def test_what_is_no_single_picture_of_8_bits_is_refused(case):
    content, message = STRANGE[case]
    with pytest.raises(ValueError, match=f"^a/b.png {message}"):
        open_image(BytesIO(content), "a/b.png")


def test_a_name_of_two_lines_is_shown_on_one():
    with pytest.raises(ValueError) as error:
        open_image(BytesIO(b"x"), "a\nb.png")
    assert str(error.value).startswith(r"a\nb.png is no image")


def test_a_phone_s_picture_with_its_depth_map_is_one_picture():
    file = BytesIO()
    noise().save(file, "MPO", save_all=True, append_images=[noise("L")])
    assert np.array_equal(to_pixels(open_image(file, "x"), 3).shape, (3, 9, 12))


def test_pictures_are_turned_as_their_exif_says():
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    image = open_image(BytesIO(encoded("PNG", exif=exif)), "x")
    assert np.array_equal(to_pixels(image, 3), np.rot90(to_pixels(noise(), 3), -1, (1, 2)))


def test_a_file_that_is_missing_or_a_folder_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.png"):
        open_image(tmp_path / "none.png")
    with pytest.raises(IsADirectoryError, match=tmp_path.name):
        open_image(tmp_path)


def test_every_suffix_is_one_that_pillow_reads():
    Image.init()
    assert set(EXTENSIONS) <= set(Image.registered_extensions())
