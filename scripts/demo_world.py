"""The small world that the demo series was trained on: its facts and its text, from code alone.

Countries, opposites, animals and verbs are real; the people are invented. Documents are short runs
of sentences about one theme, so that beside the facts there is something to follow: who holds what,
which pronoun means whom, how many are left, what was said about the same country a sentence ago.
Everything follows from a seed through `random.Random`, so the same call gives the same text.
"""

# Word lists read better as sentences than as lists of quoted words.
# ruff: noqa: SIM905

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import TypeVar

T = TypeVar("T")

# country capital language currency continent
COUNTRIES = [
    line.split()
    for line in """
France Paris French euro Europe
Germany Berlin German euro Europe
Japan Tokyo Japanese yen Asia
Italy Rome Italian euro Europe
Brazil Brasilia Portuguese real America
England London English pound Europe
China Beijing Chinese yuan Asia
Egypt Cairo Arabic pound Africa
Spain Madrid Spanish euro Europe
Russia Moscow Russian ruble Europe
Kenya Nairobi Swahili shilling Africa
Canada Ottawa English dollar America
Greece Athens Greek euro Europe
Turkey Ankara Turkish lira Asia
Korea Seoul Korean won Asia
Poland Warsaw Polish zloty Europe
Peru Lima Spanish sol America
Sweden Stockholm Swedish krona Europe
Australia Canberra English dollar Oceania
Thailand Bangkok Thai baht Asia
Norway Oslo Norwegian krone Europe
Iran Tehran Persian rial Asia
Morocco Rabat Arabic dirham Africa
Vietnam Hanoi Vietnamese dong Asia
Austria Vienna German euro Europe
Cuba Havana Spanish peso America
Nigeria Abuja English naira Africa
Portugal Lisbon Portuguese euro Europe
Hungary Budapest Hungarian forint Europe
Nepal Kathmandu Nepali rupee Asia
Denmark Copenhagen Danish krone Europe
Chile Santiago Spanish peso America
Finland Helsinki Finnish euro Europe
Ghana Accra English cedi Africa
Ukraine Kyiv Ukrainian hryvnia Europe
Iceland Reykjavik Icelandic krona Europe
Colombia Bogota Spanish peso America
Romania Bucharest Romanian leu Europe
Iraq Baghdad Arabic dinar Asia
Senegal Dakar French franc Africa
Mongolia Ulaanbaatar Mongolian tugrik Asia
Croatia Zagreb Croatian euro Europe
Uruguay Montevideo Spanish peso America
Angola Luanda Portuguese kwanza Africa
Serbia Belgrade Serbian dinar Europe
Laos Vientiane Lao kip Asia
Estonia Tallinn Estonian euro Europe
Tunisia Tunis Arabic dinar Africa
Bangladesh Dhaka Bengali taka Asia
Latvia Riga Latvian euro Europe
Albania Tirana Albanian lek Europe
Georgia Tbilisi Georgian lari Asia
Slovakia Bratislava Slovak euro Europe
Armenia Yerevan Armenian dram Asia
Lithuania Vilnius Lithuanian euro Europe
Slovenia Ljubljana Slovene euro Europe
""".split("\n")
    if line
]

OPPOSITES = [
    pair.split("-")
    for pair in (
        "hot-cold big-small old-young tall-short fast-slow hard-soft wet-dry dark-light rich-poor "
        "happy-sad full-empty clean-dirty early-late strong-weak thick-thin deep-shallow "
        "wide-narrow loud-quiet open-closed good-bad right-wrong sweet-sour sharp-blunt "
        "cheap-expensive easy-difficult smooth-rough tight-loose high-low black-white kind-cruel "
        "safe-dangerous true-false near-far up-down in-out day-night north-south east-west "
        "first-last winter-summer peace-war"
    ).split()
]

# animal young plural
ANIMALS = [
    entry.split("/")
    for entry in (
        "dog/puppy/dogs cat/kitten/cats cow/calf/cows horse/foal/horses sheep/lamb/sheep "
        "pig/piglet/pigs goat/kid/goats hen/chick/hens duck/duckling/ducks lion/cub/lions "
        "bear/cub/bears wolf/pup/wolves fox/cub/foxes deer/fawn/deer goose/gosling/geese "
        "owl/owlet/owls frog/tadpole/frogs rabbit/kit/rabbits swan/cygnet/swans "
        "elephant/calf/elephants eagle/eaglet/eagles donkey/foal/donkeys whale/calf/whales "
        "tiger/cub/tigers kangaroo/joey/kangaroos seal/pup/seals hare/leveret/hares "
        "butterfly/caterpillar/butterflies camel/calf/camels penguin/chick/penguins "
        "beaver/kit/beavers koala/joey/koalas bat/pup/bats giraffe/calf/giraffes "
        "leopard/cub/leopards spider/spiderling/spiders zebra/foal/zebras otter/pup/otters"
    ).split()
]

VERBS = [
    pair.split("-")
    for pair in (
        "go-went see-saw eat-ate give-gave take-took come-came run-ran find-found make-made "
        "write-wrote drink-drank buy-bought bring-brought sing-sang sleep-slept speak-spoke "
        "hold-held lose-lost think-thought sit-sat stand-stood swim-swam drive-drove fall-fell "
        "know-knew fly-flew catch-caught sell-sold teach-taught break-broke wear-wore "
        "build-built grow-grew throw-threw draw-drew win-won ride-rode hide-hid feed-fed "
        "leave-left meet-met pay-paid tell-told wake-woke"
    ).split()
]

WOMEN = (
    "Ada Mara Nina Ruth Iris Vera Lena Olga Tess Zoe Alma Clara Dora Edith Greta Hana Ida Julia "
    "Kira Lucy"
).split()
MEN = (
    "Adam Boris Carl David Emil Felix Gus Hugo Ivan Jonas Kurt Leo Max Noah Oscar Paul Rex Sam Tom "
    "Victor"
).split()
JOBS = (
    "baker farmer teacher doctor painter singer sailor pilot cook nurse judge miner tailor weaver "
    "hunter writer"
).split()
FOODS = (
    "bread cheese rice soup plums apples pears honey nuts cake beans eggs grapes lemons carrots "
    "onions cherries milk"
).split()
THINGS = (
    "ball key book box lamp hat coin cup ring letter map rope basket knife drum flute clock bell "
    "coat chair"
).split()
PLACES = (
    "kitchen garden market river hill forest school library station tower bridge harbour cellar "
    "barn"
).split()
COLOURS = "red blue green yellow brown grey".split()
ADJECTIVES = (
    "big small old young tall short fast slow happy sad clean dirty strong weak loud quiet thin "
    "kind cruel wet"
).split()
_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
NUMBERS = _UNITS + [
    f"{ten} {unit}" if unit != "zero" else ten
    for ten in ("twenty", "thirty", "forty")
    for unit in _UNITS[:10]
]


@dataclass(frozen=True)
class Person:
    """An invented person and what is true of her or him."""

    name: str
    woman: bool
    job: str
    home: str
    food: str

    @property
    def pronoun(self) -> str:
        """`She` or `He`, as at the start of a sentence."""
        return "She" if self.woman else "He"

    @property
    def possessive(self) -> str:
        """`her` or `his`."""
        return "her" if self.woman else "his"


def _people() -> list[Person]:
    draw = random.Random("the people of the demo world")
    towns = [country[1] for country in COUNTRIES[:24]]
    people = [
        Person(name, name in WOMEN, draw.choice(JOBS), draw.choice(towns), draw.choice(FOODS))
        for name in WOMEN + MEN
    ]
    draw.shuffle(people)
    return people


PEOPLE = _people()


@dataclass(frozen=True)
class Relation:
    """Facts of one kind.

    Attributes:
        name: Name of the relation and of its file.
        templates: Prompts that end where the object begins; `{}` is the subject.
        samples: Pairs of subject and object.
    """

    name: str
    templates: tuple[str, ...]
    samples: tuple[tuple[str, str], ...]


RELATIONS = (
    Relation(
        "capital",
        ("The capital of {} is", "The government of {} sits in", "All roads of {} lead to"),
        tuple((c[0], c[1]) for c in COUNTRIES),
    ),
    Relation(
        "language",
        ("The language of {} is", "People in {} speak", "Most books in {} are in"),
        tuple((c[0], c[2]) for c in COUNTRIES),
    ),
    Relation(
        "currency",
        ("The currency of {} is the", "People in {} pay with the", "Shops in {} take the"),
        tuple((c[0], c[3]) for c in COUNTRIES),
    ),
    Relation(
        "continent",
        ("{} is a country in", "The continent of {} is", "On the map {} is found in"),
        tuple((c[0], c[4]) for c in COUNTRIES),
    ),
    Relation(
        "opposite",
        ("The opposite of {} is", "What is not {} is", "The word {} is the reverse of"),
        tuple(pair for a, b in OPPOSITES for pair in ((a, b), (b, a))),
    ),
    Relation(
        "young",
        (
            "The young of the {} is the",
            "The mother {} feeds her",
            "What will grow into a {} is a",
        ),
        tuple((a[0], a[1]) for a in ANIMALS),
    ),
    Relation(
        "past_tense",
        (
            "The past of {} is",
            "Today they {} and yesterday they",
            "Now we {} but long ago we",
        ),
        tuple((v[0], v[1]) for v in VERBS),
    ),
    Relation(
        "next_number",
        ("After {} comes", "The number after {} is", "One more than {} is"),
        tuple((NUMBERS[i], NUMBERS[i + 1]) for i in range(len(NUMBERS) - 1)),
    ),
    Relation(
        "job",
        ("{} works as a", "By trade {} is a", "The money of {} comes from work as a"),
        tuple((p.name, p.job) for p in PEOPLE),
    ),
    Relation(
        "home",
        ("{} lives in", "The home of {} is in", "Letters to {} go to"),
        tuple((p.name, p.home) for p in PEOPLE),
    ),
    Relation(
        "favourite_food",
        ("{} likes to eat", "The favourite food of {} is", "For dinner {} asks for"),
        tuple((p.name, p.food) for p in PEOPLE),
    ),
)

BY_NAME = {relation.name: relation for relation in RELATIONS}


@cache
def _falling(count: int) -> list[float]:
    """Cumulative weights 1/(20 + rank)."""
    return list(accumulate(1.0 / (20.0 + rank) for rank in range(count)))


class Writer:
    """Writes documents, all chance drawn from one seed."""

    def __init__(self, seed: str) -> None:
        self._chance = random.Random(seed)
        self._themes: dict[Callable[[], list[str]], float] = {
            self._country: 3.0,
            self._person: 3.0,
            self._facts: 3.5,
            self._objects: 2.5,
            self._animals: 1.5,
            self._sums: 1.5,
            self._journey: 1.5,
        }

    def document(self, words: int) -> str:
        """One document: sentences of one theme after another until there are that many words."""
        sentences: list[str] = []
        written = 0
        while written < words:
            more = self._chance.choices(list(self._themes), list(self._themes.values()))[0]()
            sentences += more
            written += sum(sentence.count(" ") + 1 for sentence in more)
        return " ".join(sentences)

    def excerpt(self, fewest: int, most: int) -> str:
        """The beginning of a document, cut in mid-sentence after fewest to most words."""
        words = self._chance.randint(fewest, most)
        return " ".join(self.document(words).split()[:words])

    def _often_first(self, items: Sequence[T]) -> T:
        """One item, the first ones more often: words are met as unevenly as in real text."""
        return self._chance.choices(items, cum_weights=_falling(len(items)))[0]

    def _fact(self, name: str, subject: str | None = None) -> str:
        relation = BY_NAME[name]
        if subject is None:
            subject, thing = self._often_first(relation.samples)
        else:
            thing = dict(relation.samples)[subject]
        return f"{self._chance.choice(relation.templates).format(subject)} {thing}."

    def _facts(self) -> list[str]:
        """Facts of one relation, as in a list of questions at school."""
        hard = {"opposite": 4.0, "past_tense": 4.0, "next_number": 2.0}
        weights = [hard.get(r.name, 1.0) for r in RELATIONS]
        name = self._chance.choices(RELATIONS, weights)[0].name
        return [self._fact(name) for _ in range(self._chance.randint(2, 4))]

    def _country(self) -> list[str]:
        """One country, then the same country meant by `there` and `it`."""
        chance = self._chance
        name, capital, language, currency, _ = self._often_first(COUNTRIES)
        about = [
            self._fact(r, name)
            for r in chance.sample(["capital", "language", "currency", "continent"], 2)
        ]
        food, season = chance.choice(FOODS), chance.choice(["summer", "winter"])
        weather = chance.choice(["hot", "cold", "wet", "dry"])
        look = chance.choice(["big", "small", "old", "clean", "loud"])
        more = [
            f"In {capital} people speak {language}.",
            f"There a bag of {food} costs {chance.choice(NUMBERS[2:21])} {currency}.",
            f"A {chance.choice(JOBS)} from {capital} writes in {language}.",
            f"It is {weather} there in {season}.",
            f"The {chance.choice(PLACES)} of {capital} is {look}.",
        ]
        return about + chance.sample(more, chance.randint(1, 3))

    def _person(self) -> list[str]:
        """One person, then she or he."""
        chance = self._chance
        person = self._often_first(PEOPLE)
        name, she = person.name, person.pronoun
        country = next(c for c in COUNTRIES if c[1] == person.home)
        about = [self._fact(r, name) for r in chance.sample(["job", "home", "favourite_food"], 2)]
        friend = chance.choice([p for p in PEOPLE if p is not person])
        more = [
            f"{she} is a {person.job} and lives in {person.home}.",
            f"{she} eats {person.food} with {person.possessive} friend {friend.name}.",
            f"{she} speaks {country[2]} and pays with the {country[3]}.",
            f"{she} gave {friend.name} some {friend.food} because {friend.pronoun.lower()} "
            f"likes to eat {friend.food}.",
            f"At home in {country[0]} {she.lower()} has {chance.choice(NUMBERS[2:10])} "
            f"{self._often_first(ANIMALS)[2]}.",
        ]
        return about + chance.sample(more, chance.randint(1, 3))

    def _objects(self) -> list[str]:
        """Things change hands and places; the end says who has what."""
        chance = self._chance
        first, second = chance.sample(PEOPLE, 2)
        thing, other = chance.sample(THINGS, 2)
        here, there = chance.sample(PLACES, 2)
        colour = chance.choice(COLOURS)
        story = [
            f"{first.name} found a {colour} {thing} in the {here}.",
            f"{second.name} had the {other}.",
        ]
        holder, place = first, here
        if chance.random() < 0.5:
            story.append(f"{first.name} gave the {thing} to {second.name}.")
            holder = second
        if chance.random() < 0.6:
            story.append(f"{holder.name} took it to the {there}.")
            place = there
        ends = [
            f"Now the {thing} is in the {place}.",
            f"{holder.name} holds {holder.possessive} {colour} {thing}.",
            f"The {colour} {thing} of {holder.name} is in the {place}.",
            f"Who has the {thing}? {holder.name} has it.",
        ]
        return story + chance.sample(ends, chance.randint(1, 2))

    def _animals(self) -> list[str]:
        """Animals, one or many, with the verb that agrees."""
        chance = self._chance
        animal, young, many = self._often_first(ANIMALS)
        other = self._often_first(ANIMALS)
        place = chance.choice(PLACES)
        quality = chance.choice(ADJECTIVES)
        opposite = dict(BY_NAME["opposite"].samples)[quality]
        if opposite not in ADJECTIVES:
            quality, opposite = "old", "young"
        count = chance.randint(2, 9)
        lines = [
            f"The {animal} near the {other[2]} is {quality}.",
            f"The {many} near the {other[0]} are {quality}.",
            f"One {animal} was {quality} but the other was {opposite}.",
            f"In the {place} there are {NUMBERS[count]} {many} and {NUMBERS[count + 1]} "
            f"{other[2]}.",
            f"The {young} of the {animal} sleeps in the {place}.",
            f"The {many} with the {young} were {quality} and so were the {other[2]}.",
            self._fact("young", animal),
            self._fact("opposite", quality),
        ]
        return chance.sample(lines, chance.randint(2, 3))

    def _sums(self) -> list[str]:
        """Sums, differences, and things that become more or fewer."""
        chance = self._chance
        lines = []
        for _ in range(chance.randint(1, 3)):
            a, b = chance.randint(2, 20), chance.randint(2, 9)
            person, food = chance.choice(PEOPLE), chance.choice(FOODS)
            low, high = sorted((a, b))
            lines.append(
                chance.choice(
                    [
                        f"{NUMBERS[a].capitalize()} plus {NUMBERS[b]} is {NUMBERS[a + b]}.",
                        f"{NUMBERS[high].capitalize()} minus {NUMBERS[low]} is "
                        f"{NUMBERS[high - low]}.",
                        f"{person.name} had {NUMBERS[a]} bags of {food} and found {NUMBERS[b]} "
                        f"more, so {person.pronoun.lower()} has {NUMBERS[a + b]} bags of {food}.",
                        self._fact("next_number"),
                    ]
                )
            )
        return lines

    def _journey(self) -> list[str]:
        """A day told in the past tense, the verbs given in the present first."""
        chance = self._chance
        person = self._often_first(PEOPLE)
        verb, other = self._often_first(VERBS), self._often_first(VERBS)
        place, thing = chance.choice(PLACES), chance.choice(THINGS)
        north = chance.choice(["north", "south", "east", "west"])
        weather = chance.choice(["hot", "cold", "wet", "dry"])
        lines = [
            f"{person.name} said that they {verb[0]} and {other[0]} every day.",
            f"Last {chance.choice(['winter', 'summer'])} they {verb[1]} and {other[1]}.",
            self._fact("past_tense", verb[0]),
            f"The day was {weather} and {person.name} went {north} to the {place}.",
            f"There {person.pronoun.lower()} saw the {thing} of {chance.choice(PEOPLE).name}.",
            f"In the night {person.pronoun.lower()} left the {place} for {person.home}.",
        ]
        start = chance.randint(0, 3)
        return lines[start : start + chance.randint(2, 3)]


TRAINING_DOCUMENTS = 24_000
HELD_OUT_DOCUMENTS = 1_500
FEWEST_WORDS, MOST_WORDS = 16, 50


def training_documents(count: int = TRAINING_DOCUMENTS) -> list[str]:
    """The text the demo series is trained on, without doubles."""
    writer = Writer("demo: training")
    return list(dict.fromkeys(writer.document(38) for _ in range(count)))


def held_out_documents(training: Sequence[str], count: int = HELD_OUT_DOCUMENTS) -> list[str]:
    """Documents that no training document begins like, cut in mid-sentence as excerpts are.

    A cut leaves all kinds of words last, and `last` is what the model is about to say.
    """
    seen = {tuple(document.split()[:FEWEST_WORDS]) for document in training}
    writer = Writer("demo: held out")
    kept: dict[str, None] = {}
    while len(kept) < count:
        excerpt = writer.excerpt(FEWEST_WORDS, MOST_WORDS)
        if tuple(excerpt.split()[:FEWEST_WORDS]) not in seen:
            kept[excerpt] = None
    return list(kept)
