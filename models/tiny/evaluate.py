"""`python -m models.tiny.evaluate`: measure the bundled model, see `models/tiny/training/evaluation.py`."""

from models.tiny.training.evaluation import main

if __name__ == "__main__":
    main()
