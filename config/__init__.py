"""What every layer may know: settings, the model catalogue and the root of all errors."""
