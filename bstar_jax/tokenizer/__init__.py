"""Text to token ids and back, from three sources behind one interface.

Words for a task whose words are few and known; sentencepiece, trained on a task's own text; a
tokenizer that came with a checkpoint. All three run as a `tokenizer.json`, which Transformers
reads too.

Training and sampling encode prompt and response apart, so the ids of a row are
`encode_prompt(prompt) + encode(response) + [end_id]`, however the text came about. The prompt is
written as the model's own tokenizer writes it: behind start-of-text where the model was trained
so, with the space that some put before every text, or as a user's turn of a chat. The response
goes on from there: nothing is put before it, and its tokens decode to it alone.

A text is never read for special tokens: `</s>` in a question is four characters. So the ids of
end-of-text and of turns come from this package alone.
"""

from bstar_jax.tokenizer.chat import for_chat
from bstar_jax.tokenizer.interface import Tokenizer, check_round_trip, tokens_at
from bstar_jax.tokenizer.published import load
from bstar_jax.tokenizer.sources import train_sentencepiece, word_tokenizer

__all__ = [
    "Tokenizer",
    "check_round_trip",
    "for_chat",
    "load",
    "tokens_at",
    "train_sentencepiece",
    "word_tokenizer",
]
