"""What people look at: tables, plots, TensorBoard, reports. It reads records and computes nothing that a number rests on."""
