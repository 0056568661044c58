"""`python -m models.tiny.train`: train the bundled model, see `models/tiny/training/run.py`."""

from models.tiny.training.run import main

if __name__ == "__main__":
    main()
