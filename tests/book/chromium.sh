#!/bin/sh
# Chromium for the browser checks: found, installed where that can be done, or said how.
# It never fails: the book itself needs no browser, and the checks say themselves that it is missing.
for name in "$CHROMIUM" chromium chromium-browser google-chrome; do
  [ -n "$name" ] && command -v "$name" >/dev/null 2>&1 && exit 0
done
sudo=
[ "$(id -u)" = 0 ] || sudo="sudo -n"
if command -v apt-get >/dev/null 2>&1 && ${sudo:-env} true 2>/dev/null; then
  echo "installing Chromium for the browser checks"
  if $sudo apt-get update -qq && $sudo apt-get install -y -qq chromium >/dev/null; then exit 0; fi
fi
echo "Chromium was not found: the browser checks of 'make test' need it." >&2
echo "Install it (Debian: sudo apt-get install chromium) or set CHROMIUM=/path/to/chromium." >&2
