"""What users upload: taking it in, looking into it, giving it out, sweeping up after it."""
