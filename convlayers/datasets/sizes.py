"""Sizes checked before memory is taken: what a compressed file may claim to hold."""

from ..errors import FileFormatError

# Deflate cannot do better: 258 bytes from two bits (zlib's documentation gives 1032 to 1).
_DEFLATE_RATIO = 1032
# A thousandfold of a large file is still a bomb; four times as much is needed once the pixels are float32.
_UNPACKED_LIMIT = 1 << 32


def check_unpacked(claimed: int, packed: int, place: str) -> None:
    """Refuse `claimed` bytes that cannot come out of `packed` bytes of deflate, or are more than 4 GiB."""
    if claimed > packed * _DEFLATE_RATIO + _DEFLATE_RATIO:
        raise FileFormatError(f"{place} claims {claimed:,} bytes; its {packed:,} compressed bytes cannot hold that many")
    if claimed > _UNPACKED_LIMIT:
        raise FileFormatError(f"{place} claims {claimed:,} bytes; a compressed file may unpack to {_UNPACKED_LIMIT:,} at most")
