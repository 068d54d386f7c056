"""The Python client of the Perkamo loyalty and gamification API."""
