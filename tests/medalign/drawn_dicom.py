"""DICOM files written by the tests, each with a name planted in its headers."""

from pathlib import Path

import numpy as np
from drawn_images import PHI
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

VALUES = np.array([[0, 10, 20, 30], [40, 50, 60, 70], [80, 90, 100, 110]], dtype=np.int16)


def write(path: Path, stored: np.ndarray, *, syntax=ExplicitVRLittleEndian, **tags) -> Path:
    """Write a DICOM file of stored values (H, W), (F, H, W) or (H, W, 3)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = syntax
    data = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    colour = stored.shape[-1] == 3
    frames = stored.shape[0] if stored.ndim == 3 and not colour else 1
    data.PatientName, data.PatientID, data.PatientBirthDate = PHI, f"{PHI}-id", "19500101"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.SOPInstanceUID = "1.2.3", "1.2.3.4", generate_uid()
    data.Modality, data.BodyPartExamined = "CT", "CHEST"
    data.Rows, data.Columns = stored.shape[:2] if colour else stored.shape[-2:]
    data.SamplesPerPixel = 3 if colour else 1
    data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8 * stored.dtype.itemsize
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(stored.dtype.kind == "i")
    if colour:
        data.PlanarConfiguration = 0
    if frames > 1:
        data.NumberOfFrames = frames
    data.PixelData = stored.tobytes()
    for keyword, value in tags.items():
        setattr(data, keyword, value)
    data.save_as(path, enforce_file_format=True)
    return path
