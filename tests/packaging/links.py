"""links.py - the links of the project's pages that name a file or a heading of this repository lead somewhere."""
import glob
import os
import re
import sys

BUILT = ("build", "target")


def headings(path):
    """The anchors of a page, made as code hosts make them."""
    with open(path, encoding="utf-8") as page:
        text = re.sub(r"^```.*?^```$", "", page.read(), flags=re.S | re.M)
    titles = re.findall(r"^#+ +(.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def main():
    pages = [page for page in sorted(glob.glob("**/*.md", recursive=True)) if page.split("/")[0] not in BUILT]
    broken, links = [], 0
    for page in pages:
        with open(page, encoding="utf-8") as file:
            targets = re.findall(r"\]\(([^)\s]+)\)", file.read())
        for target in targets:
            if re.match(r"[a-z]+:", target):
                continue
            links += 1
            name, _, anchor = target.partition("#")
            path = os.path.normpath(os.path.join(os.path.dirname(page), name)) if name else page
            if not os.path.exists(path) or (anchor and anchor not in headings(path)):
                broken.append(f"{page}: {target}")
    print("\n".join(broken))
    print(f"{len(pages)} pages, {links} links")
    sys.exit(1 if broken or not links else 0)


main()
