"""What a prediction is worth: calibration, overlap, distance, uncertainty."""
