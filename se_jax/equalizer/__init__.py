"""The paper: fusion sites with scale equalizers (`fusion`), their calibration (`calibrate`) and folding (`fold`)."""
