"""English sentences from a small grammar: ordinary words, plain facts, no two speakers with the same text."""

import random
import re

WORDS = {
    "person": "sailor teacher farmer doctor baker soldier painter captain stranger child widow merchant hunter "
    "gardener judge servant singer miller shepherd lawyer king queen nurse traveller uncle sister brother neighbour "
    "prisoner princess student clerk blacksmith fisherman grandmother cousin poet guard",
    "name": "Anna Thomas Margaret Henry Alice George Martha Samuel Clara William Ruth Edward Helen Walter Julia Oliver",
    "animal": "horse dog cat crow fox lion wolf mouse owl goose rabbit donkey spider bear eagle sheep pony whale",
    "thing": "letter lantern basket ladder candle hammer book coat picture mirror blanket kettle window barrel ring "
    "clock chair violin bottle map key coin knife wagon rope shoe flag button table drum feather curtain shovel boat "
    "apple bell purse umbrella cup stone",
    "place": "village river forest garden kitchen harbour mountain church market castle bridge valley meadow island "
    "station cottage library prison field tower cellar desert city mill shore road barn orchard palace",
    "quality": "old young quiet golden heavy strange little gentle broken yellow angry foolish brave narrow bright "
    "cold famous hungry lonely patient proud silver tired wooden honest clever empty dark green pale dusty huge",
    "sees": "found carried watched remembered painted followed forgot touched noticed lost brought hid cleaned "
    "described wanted borrowed opened sold loved feared mended kept threw chose",
    "goes": "walked wandered hurried travelled ran rode rushed returned climbed crept vanished sailed",
    "rests": "waited slept laughed listened whispered sang worked smiled trembled prayed danced wept shouted rested",
    "manner": "slowly|quietly|suddenly|carefully|gladly|often|again|together|alone|at last|without a word|"
    "with great care|for the first time|once more",
    "where": "near behind beyond inside beside above under outside",
    "towards": "towards into through over around past along",
    "when": "yesterday|in the morning|after supper|before sunrise|late in autumn|every evening|one winter night|"
    "at noon|on the third day|during the storm|many years ago|that same summer|as usual|without warning|by chance",
    "says": "said thought knew hoped believed promised replied feared imagined",
    "number": "two three four seven nine eleven twelve twenty forty",
    "plural": "children horses soldiers ships letters windows birds strangers mountains rivers women trees wolves "
    "candles questions voices stories clouds flowers coins",
    "becomes": "was seemed became looked felt remained",
    "links": "because although while until when before after since",
    "asks": "why where when how",
}
_LISTS = {name: words.split("|" if "|" in words else None) for name, words in WORDS.items()}

# A rule's lines are drawn with equal chance; <name> stands for a rule or a list of words.
RULES = {
    "sentence": """
        <who> <sees> <what> <where> the <place>.
        <who> <goes> <towards> the <place> <when>.
        <when>, <who> <sees> <what>, and <who> <rests> <manner>.
        <who> <sees> <what> <links> <who> <rests> <where> the <quality> <place>.
        <who> <says> that <what> <becomes> <quality> and <quality>.
        there were <number> <plural> <where> the <place>, and <who> <sees> <what>.
        <links> <who> <goes> <towards> the <place>, <who> <rests> <manner>.
        <asks> did <who> leave <what> <where> the <place>?
        nobody <says> that <who>, who <goes> <towards> the <place>, <sees> <what>.
        <number> <plural> <rests> <manner> <where> the <quality> <place>.
        the <place> <becomes> <quality>, but <who> <goes> <manner> <towards> the <place>.
        do not forget <what>, <says> <name>, or <who> will be <quality> <when>.
        it <becomes> <quality> in the <place>, so <who> <sees> <what> and <goes> <towards> the <place>.
        if <who> ever comes to the <place>, give the <person> <what>.
        neither the <person> nor the <animal> <sees> <what> <when>.
    """,
    "who": """
        the <person>
        the <quality> <person>
        <name>
        <name> and the <person>
        my <person>
        the <animal>
        the <quality> <animal>
        the <person> from the <place>
        she
        he
    """,
    "what": """
        the <thing>
        the <quality> <thing>
        her <quality> <thing>
        his <thing>
        the <thing> of the <person>
        <number> <plural>
        the <animal> and the <thing>
        every <thing> in the <place>
    """,
}
_LINES = {name: [line.strip() for line in lines.strip().splitlines()] for name, lines in RULES.items()}


def sentence(draw: random.Random) -> str:
    """One sentence with its punctuation, as a voice should read it; `draw` decides everything."""
    text = draw.choice(_LINES["sentence"])
    while match := re.search(r"<(\w+)>", text):
        name = match.group(1)
        text = text[: match.start()] + draw.choice(_LINES.get(name) or _LISTS[name]) + text[match.end() :]
    return text[0].upper() + text[1:]


def transcript(text: str) -> str:
    """The words of a sentence as LibriSpeech writes them: upper case, no punctuation."""
    return " ".join(re.findall(r"[A-Z']+", text.upper()))


def vocabulary() -> set[str]:
    """Every word that a sentence may hold, in upper case."""
    lines = [line for lines in _LINES.values() for line in lines] + [
        word for words in _LISTS.values() for word in words
    ]
    return {word for line in lines for word in transcript(re.sub(r"<\w+>", " ", line)).split()}
