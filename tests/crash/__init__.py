"""Power cuts: a disk that forgets, what recovery makes of it, and the wrong engines they find."""
