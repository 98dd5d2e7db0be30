"""Which files of a folder are images and annotations, and which belong together.

Names are compared in Unicode's form NFC, because macOS stores them decomposed and other systems composed: what looks
the same is the same. Sub-folders are walked and are part of a name.
"""

import difflib
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

import tensorflow as tf

from data_pipelines.labels import DataError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png")
LABEL_ENDINGS = (".png",)
MASK_SUFFIX = "_mask"  # NAME_mask.png is the annotation of NAME.jpg
_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".npy", ".jp2", ".heic")
_NO_FOLDERS = ("__MACOSX",)  # what archives made on a Mac bring along


def files_by_stem(directory: str, endings: Sequence[str], kind: str, advice: str, walk: bool = False) -> dict[str, str]:
    """{NAME: path} of the files with these endings (in any case) in a folder, by rising NAME: without ending, in NFC.

    walk: also in its sub-folders, which are part of the NAME. Raises DataError: no such folder (followed by `advice`),
    two files of one NAME, or, where `kind` says of what, none.
    """
    if not tf.io.gfile.isdir(directory):
        raise DataError(f"directory {directory} does not exist. {advice}")
    files: dict[str, str] = {}
    others: dict[str, int] = {}
    for entry in sorted(entries(directory, walk)):
        stem, ending = os.path.splitext(entry)
        if ending.lower() not in endings:
            others[ending.lower()] = others.get(ending.lower(), 0) + 1
            continue
        stem = normal(stem)
        if stem in files:
            kept = os.path.relpath(files[stem], directory) if "://" not in directory else files[stem]
            raise DataError(f"{directory}: {kept} and {entry} have the same name; keep one")
        files[stem] = os.path.join(directory, entry)
    if kind and not files:
        found = ", ".join(f"{count} of {ending or 'no ending'}" for ending, count in sorted(others.items()))
        convert = " Save them as PNG." if set(others) & set(_PICTURES) - set(endings) else ""
        raise DataError(
            f"{directory} holds no {kind} ({', '.join(endings)}; sub-folders were looked through). "
            f"Files found: {found or 'none'}.{convert}"
        )
    return dict(sorted(files.items()))


def paired(images: Mapping[str, str], image_folder: str, label_folder: str, advice: str) -> list[tuple[str, str]]:
    """[(image, annotation)] of the images {NAME: path}: annotations are NAME.png, or else NAME_mask.png.

    Raises DataError that names images without an annotation or annotations without an image, what was looked for, and
    files that come near.
    """
    labels = files_by_stem(label_folder, LABEL_ENDINGS, "", advice, walk=True)
    partner = {name: next((n for n in (name, name + MASK_SUFFIX) if n in labels), None) for name in images}
    if alone := [name for name, label in partner.items() if label is None]:
        raise DataError(
            f"{len(alone)} of {len(images)} image files have no annotation of the same name, for example "
            f"{', '.join(images[name] for name in alone[:3])}. Looked for {alone[0]}.png and "
            f"{alone[0]}{MASK_SUFFIX}.png below {label_folder}; {_near(alone[0], label_folder, LABEL_ENDINGS)} Add the "
            "annotation files or take the image files away."
        )
    used = set(partner.values())
    if alone := [name for name in labels if name not in used]:
        name = alone[0].removesuffix(MASK_SUFFIX)
        raise DataError(
            f"{len(alone)} of {len(labels)} annotation files have no image of the same name, for example "
            f"{', '.join(labels[name] for name in alone[:3])}. Looked for {name} with {', '.join(IMAGE_ENDINGS)} below "
            f"{image_folder}; {_near(name, image_folder, IMAGE_ENDINGS)} Add the image files or take the annotation "
            "files away."
        )
    pairs = [(path, partner[name]) for name, path in images.items()]
    return [(path, labels[other]) for path, other in pairs if other is not None]


def entries(directory: str, walk: bool) -> Iterator[str]:
    """Files of a folder (and below it, if `walk`), relative to it; hidden ones are left out. Links are followed."""
    if "://" in directory:
        found = tf.io.gfile.walk(directory) if walk else [(directory, [], tf.io.gfile.listdir(directory))]
        for folder, _, names in found:
            inside = folder[len(directory) :].strip("/")
            yield from (os.path.join(inside, name) for name in names if not name.startswith("."))
        return
    for folder, folders, names in os.walk(directory, followlinks=True):
        inside = os.path.relpath(folder, directory)
        folders[:] = [
            name
            for name in folders
            if walk and not name.startswith(".") and name not in _NO_FOLDERS and not _leads_back(folder, name)
        ]
        yield from (name if inside == "." else os.path.join(inside, name) for name in names if not name.startswith("."))


def _leads_back(folder: str, name: str) -> bool:
    """Whether a link in a folder leads to a folder that it lies in, which would be walked without end."""
    path = os.path.join(folder, name)
    return os.path.islink(path) and f"{os.path.realpath(folder)}/".startswith(f"{os.path.realpath(path)}/")


def normal(name: str) -> str:
    """A name in Unicode's form NFC."""
    return unicodedata.normalize("NFC", name)


def _near(name: str, folder: str, endings: Sequence[str]) -> str:
    """What in a folder might have been meant by NAME, in words."""
    base = os.path.basename(name).casefold()
    found, everything = [], sorted(entries(folder, True))
    for entry in everything:
        stem, ending = os.path.splitext(normal(os.path.basename(entry)))
        stem = stem.casefold()
        if ending.lower() in _PICTURES and stem and (base in stem or stem in base):
            found.append(entry)
    if not found:
        found = difflib.get_close_matches(name, everything, 2, 0.75) if len(everything) < 5000 else []
    if not found:
        return f"nothing comes near among the {len(everything)} files there."
    found.sort(key=lambda entry: abs(len(entry) - len(name)))
    wrong = {os.path.splitext(entry)[1].lower() for entry in found[:3]} - set(endings)
    why = ""
    if wrong & {".jpg", ".jpeg"}:
        why = " JPEG changes ids near borders: export the masks as PNG."
    elif wrong:
        why = " Save them as PNG."
    return f"near it: {', '.join(found[:3])}.{why}"
