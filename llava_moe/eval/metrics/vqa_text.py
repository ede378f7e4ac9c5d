"""The answer normalisation of the VQA evaluation, which seven later scorers copied, its slips included.

Every function here is text to text. The slips are part of the contract, because published numbers were made with them:

* the look-behind of the full-stop rule is misspelt, so a stop after a digit goes too unless a digit follows ("5." ->
  "5");
* ``re.UNICODE`` is handed to ``Pattern.sub`` where it means ``count=32``: only the first 32 stops of a text can go;
* whether a sign is deleted or replaced by a blank is decided once for the whole text, before anything was changed.

Source: GT-Vision-Lab/VQA ``PythonEvaluationTools/vqaEvaluation/vqaEval.py``; the copies agree with
EvolvingLMMs-Lab/lmms-eval ``tasks/_task_utils/vqa_eval_metric.py``, microsoft/LLaVA-Med
``llava/eval/eval_metrics/glossary.py`` and OpenGVLab/Multi-Modality-Arena ``tiny_lvlm_evaluation/utils/tools.py``.
"""

from __future__ import annotations

import re

PUNCTUATION = (";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!")
ARTICLES = frozenset({"a", "an", "the"})
NUMBER_WORDS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"}
NUMBER_WORDS |= {"seven": "7", "eight": "8", "nine": "9", "ten": "10"}
MAX_STOPS = int(re.UNICODE)

_STOP = re.compile(r"\.(?!\d)")
_STOP_NOT_AFTER_DIGIT = re.compile(r"(?<!\d)\.(?!\d)")
_COMMA_BETWEEN_DIGITS = re.compile(r"\d,\d")
_COMMAS_BETWEEN_DIGITS = re.compile(r"(?<=\d),+(?=\d)")

# Written form -> canonical form, with the original's slip ("somebody'd" loses its apostrophe). Left out are the
# entries that can never match a lower-cased word (Id've, I'dve, Im, Ive) and those that change nothing (let's, she's).
_CONTRACTION_TABLE = """
    aint:ain't arent:aren't cant:can't couldve:could've couldnt:couldn't couldn'tve:couldn't've
    couldnt've:couldn't've didnt:didn't doesnt:doesn't dont:don't hadnt:hadn't hadnt've:hadn't've
    hadn'tve:hadn't've hasnt:hasn't havent:haven't hed:he'd hed've:he'd've he'dve:he'd've hes:he's howd:how'd
    howll:how'll hows:how's isnt:isn't itd:it'd itd've:it'd've it'dve:it'd've itll:it'll maam:ma'am
    mightnt:mightn't mightnt've:mightn't've mightn'tve:mightn't've mightve:might've mustnt:mustn't
    mustve:must've neednt:needn't notve:not've oclock:o'clock oughtnt:oughtn't ow's'at:'ow's'at 'ows'at:'ow's'at
    'ow'sat:'ow's'at shant:shan't shed've:she'd've she'dve:she'd've shouldve:should've shouldnt:shouldn't
    shouldnt've:shouldn't've shouldn'tve:shouldn't've somebody'd:somebodyd somebodyd've:somebody'd've
    somebody'dve:somebody'd've somebodyll:somebody'll somebodys:somebody's someoned:someone'd
    someoned've:someone'd've someone'dve:someone'd've someonell:someone'll someones:someone's
    somethingd:something'd somethingd've:something'd've something'dve:something'd've somethingll:something'll
    thats:that's thered:there'd thered've:there'd've there'dve:there'd've therere:there're theres:there's
    theyd:they'd theyd've:they'd've they'dve:they'd've theyll:they'll theyre:they're theyve:they've twas:'twas
    wasnt:wasn't wed've:we'd've we'dve:we'd've weve:we've werent:weren't whatll:what'll whatre:what're
    whats:what's whatve:what've whens:when's whered:where'd wheres:where's whereve:where've whod:who'd
    whod've:who'd've who'dve:who'd've wholl:who'll whos:who's whove:who've whyll:why'll whyre:why're whys:why's
    wont:won't wouldve:would've wouldnt:wouldn't wouldnt've:wouldn't've wouldn'tve:wouldn't've yall:y'all
    yall'll:y'all'll y'allll:y'all'll yall'd've:y'all'd've y'alld've:y'all'd've y'all'dve:y'all'd've youd:you'd
    youd've:you'd've you'dve:you'd've youll:you'll youre:you're youve:you've
"""
CONTRACTIONS = dict(pair.split(":") for pair in _CONTRACTION_TABLE.split())


def strip_punctuation(text: str, *, comma_runs: bool = False, keep_stop_after_digit: bool = False) -> str:
    """Delete or blank out punctuation and delete full stops as the VQA evaluation does.

    A sign is deleted everywhere if anywhere in ``text`` it touches a blank, or if ``text`` holds a comma between
    digits; else each occurrence becomes a blank.

    Args:
        text: any text.
        comma_runs: lmms-eval's and M4C's rule, by which several commas between two digits count as one.
        keep_stop_after_digit: VLMEvalKit's corrected look-behind ("5." stays).
    """
    between_digits = _COMMAS_BETWEEN_DIGITS if comma_runs else _COMMA_BETWEEN_DIGITS
    delete_all = between_digits.search(text) is not None
    result = text
    for sign in PUNCTUATION:
        touches_blank = f"{sign} " in text or f" {sign}" in text
        result = result.replace(sign, "" if delete_all or touches_blank else " ")
    return (_STOP_NOT_AFTER_DIGIT if keep_stop_after_digit else _STOP).sub("", result, count=MAX_STOPS)


def settle_digits_and_articles(text: str) -> str:
    """Lower-case, number words to digits (``none`` is 0), articles out, contractions spelt, blanks collapsed."""
    words = [NUMBER_WORDS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def flatten_blanks(text: str) -> str:
    """Line breaks and tabs to blanks, outer blanks away: what every copy does before the two rules above."""
    return text.replace("\n", " ").replace("\t", " ").strip()
