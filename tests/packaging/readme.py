"""readme.py LANGUAGE FILE - print the program of a Markdown page: its one code block of that language with a main."""
import re
import sys

language, path = sys.argv[1:]
with open(path, encoding="utf-8") as page:
    blocks = re.findall(r"^```%s\n(.*?)^```$" % re.escape(language), page.read(), re.S | re.M)
programs = [block for block in blocks if re.search(r"\bmain\(", block)]
if len(programs) != 1:
    sys.exit(f"{path} has {len(programs)} programs in {language}, not one")
print(programs[0], end="")
