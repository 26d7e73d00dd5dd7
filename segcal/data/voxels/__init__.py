"""The one reader and writer of voxels: NIfTI, MetaImage, NRRD and DICOM with the same checks and the same faults."""
