"""Images of a real guest."""
import os
class GuestError(Exception):
    pass
def is_there(folder):
    return os.path.exists(os.path.join(folder, "memory2"))
