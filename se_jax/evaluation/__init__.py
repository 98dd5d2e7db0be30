"""What a network makes of images: inference, metrics over a data set, prediction of files, submissions."""
