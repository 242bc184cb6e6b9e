"""What a page must not do, for every test of one."""

import re


def loads_nothing(page: str) -> bool:
    """Whether a page needs nothing but itself: no file, no network; scripts may only be inside."""
    outside = re.sub(r"<script>.*?</script>", "", re.sub(r"base64,[^\"]+", "", page), flags=re.S)
    return not re.findall(r"https?:|//[a-z]|<script|<link|@import|url\(", outside) and "<script src" not in page
