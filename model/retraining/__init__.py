"""The trainer as a job: train on new data, judge beside the live model, publish, have it served."""
