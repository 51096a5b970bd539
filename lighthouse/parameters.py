"""Values that commands take: a wrong one is told in a sentence before anything is done."""

import click

from lighthouse.snapshot import public_bytes


class _PublicKey(click.ParamType[str]):
    name = "key"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return an Ed25519 public key as it was given: base64url of 32 bytes."""
        try:
            whole = len(public_bytes(value)) == 32
        except ValueError:
            whole = False
        if not whole:
            sentence = f"{value} is no public key: one has 43 letters, digits, - or _."
            self.fail(sentence, param, ctx)
        return value


PUBLIC_KEY = _PublicKey()
