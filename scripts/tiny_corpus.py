"""The text the tiny model is trained on: small English stories and short chats, made from a seed.

Knows a grammar of our own: people, animals, places, things, troubles and ways out, and the
sentences that join them, with pronouns that stay right. The same seed gives the same documents.
Refuses to know tokens, tensors and files: it yields text, and whoever asks decides what becomes
of it.

Notation: `[a|b]` is a choice, nested as deep as wished; `{slot}` is a word of the story; `=>` parts
two halves that belong together, a blank line two frames, and `¶` stands for a paragraph's end.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

Turn = tuple[str, str]

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiou])(?!us[eu]|uni|one\b)|\b([Aa]) (?=honest|hour)")
_NOW = {"was": "is", "were": "are", "lay": "lies", "smelled": "smells"}
_PAST = re.compile(r"\b(?:was|were|lay|smelled)\b")
_START = re.compile(r'(^"?|[.!?]\s+"?|[a-z][,:] "|\."\s+"?|\n"?)([a-z])')


def expand(rng: random.Random, text: str, slots: dict[str, str]) -> str:
    """Returns `text` with choices made, slots filled, articles and capitals set right."""
    while "[" in text or "{" in text:
        text = _CHOICE.sub(lambda m: rng.choice(m[1].split("|")), text)
        text = _SLOT.sub(lambda m: slots[m[1]], text)
    text = _START.sub(lambda m: m[1] + m[2].upper(), " ".join(text.split(" ")))
    return _ARTICLE.sub(lambda m: m[0][0] + "n ", text)


def _words(text: str) -> tuple[str, ...]:
    return tuple(" ".join(part.split()) for part in text.split(",") if part.strip())


def _pairs(text: str) -> tuple[Turn, ...]:
    return tuple((left, right) for left, right in (w.split(": ") for w in _words(text)))


def _frames(text: str) -> tuple[str, ...]:
    return tuple(" ".join(p.split()).replace(" ¶ ", "\n\n") for p in text.strip().split("\n\n"))


def _answers(text: str) -> tuple[Turn, ...]:
    return tuple((left, right) for left, right in (f.split(" => ") for f in _frames(text)))


GIRLS = _words("""
    Mara, Lily, Nora, Ada, Elsa, Ivy, Rosa, Hana, Wren, Clara, Tilda, June, Olive, Freya, Maya,
    Zoe, Anna, Edith, Lucy, Sofia
""")
BOYS = _words("""
    Tom, Ben, Otto, Finn, Leo, Max, Jonas, Hugo, Sam, Oscar, Emil, Theo, Noah, Pavel, Rafi, Arlo,
    Jack, Peter, Nico, Oliver
""")
PETS = _words("""
    Pip, Moss, Button, Pepper, Biscuit, Clover, Dot, Hazel, Bramble, Nutmeg, Socks, Maple, Tansy,
    Fig, Pebble, Ginger, Marble, Thistle
""")
ANIMALS = _words("""
    fox, rabbit, mouse, bear, hedgehog, owl, squirrel, badger, frog, duck, otter, deer, goat, cat,
    dog, turtle, beaver, mole, crow, sparrow, donkey, lamb, wolf, goose, bat, snail, pony, hen
""")
PLURALS = {"mouse": "mice", "wolf": "wolves", "deer": "deer", "goose": "geese", "fox": "foxes"}
JOBS = _words("""
    baker, fisherman, gardener, carpenter, shepherd, miller, sailor, teacher, tailor, painter,
    farmer, clockmaker, librarian, potter, blacksmith, cook, ferryman, postman, beekeeper,
    musician
""")
TRAITS = _words("""
    curious, shy, brave, quiet, cheerful, clever, patient, stubborn, gentle, careful, kind,
    clumsy, lonely, proud, hopeful, sleepy, honest, restless, thoughtful, merry, tiny, young,
    polite, busy
""")
PLACES = _words("""
    the old mill, the forest, the market, the harbour, the river, the library, the school, the
    lighthouse, the windy hill, the apple orchard, the stone bridge, the village square, the
    beach, the barn, the railway station, the castle ruins, the green valley, the garden, the
    pond, the mountain path, the bakery, the island, the attic, the well, the meadow, the cave,
    the bell tower, the workshop, the town hall, the frozen lake
""")
HOMES = _words("""
    a small village, a house by the sea, a wooden cabin, a quiet town, a valley between two
    mountains, a red house near the river, a farm at the edge of the woods, a busy city, a cottage
    with a blue door, a fishing town in the north, a street full of cats, a room above the bakery,
    a village on a hill
""")
HOLLOWS = _words("""
    a hollow tree, an old boat, a burrow under the oak, a nest of leaves, a dry cave, a barn full
    of hay
""")
THINGS = _words("""
    key, lantern, kite, drum, book, coin, ring, hat, map, bell, whistle, basket, button, scarf,
    boat, cup, flute, letter, box, ball, mirror, blanket, clock, spoon, doll, compass, necklace,
    feather, umbrella, wheel, ladder, mitten, photograph, teapot
""")
LOOKS = _words("""
    red, blue, green, yellow, golden, silver, little, old, new, wooden, shiny, heavy, tiny, round,
    broken, painted, brass, striped, dusty, beautiful, strange, white, black, soft, crooked, plain
""")
SPOTS = _words("""
    under a pile of leaves, behind the door, inside an empty barrel, between two stones, on the
    highest shelf, in the long grass, beneath the stairs, at the bottom of a sack, next to a
    sleeping cat, under the bed, in a bird's nest, in the pocket of an old coat, on the window
    sill, half buried in the sand, behind the clock, in the mud by the gate
""")
FOODS = _words("""
    bread, apple pie, carrot soup, honey cakes, plum jam, hot chocolate, mushroom stew, cheese,
    pancakes, roasted chestnuts, berry tart, porridge, pea soup, ginger biscuits, potato salad,
    noodles
""")
SKILLS = _words("""
    swim, whistle, ride a bicycle, play the flute, paint a face, read a map, skate on the ice,
    bake bread, tie a strong knot, sing in front of people, climb a tall tree, row a boat, dance,
    tell a good story, juggle three apples, write a poem, mend a net, fly a kite, speak to
    strangers, catch a ball
""")
MAKINGS = _words("""
    a kite, a birdhouse, a pair of warm socks, a birthday cake, a small boat, a paper lantern, a
    wooden horse, a big pot of soup, a song, a quilt, a snow house, a puppet theatre, a bench, a
    necklace of shells, a picture book, a garden of sunflowers, a clock, a basket
""")
WEATHER = _words("""
    the sun was shining, it was raining, the wind was cold, snow was falling, the sky was grey, it
    was a warm day, thick fog lay over the fields, the air smelled of rain, the stars were bright,
    the leaves were turning red, a storm was coming, the first flowers were open, there was not a
    cloud in the sky
""")
NIGHT_WEATHER = _words("""
    the stars were bright, the moon was full, it was raining, the wind was cold, snow was falling
""")
TIMES = _words("""
    one morning, one evening, one day, late one night, one Sunday, early in spring, on the first
    day of winter, one summer afternoon, the next autumn, on a cold Monday, one Friday after
    school, at the end of the harvest, just before sunset, on the longest day of the year
""")
FEELS = _words("""
    happy, proud, tired, glad, surprised, calm, grateful, warm inside, a little older, lighter
    than before
""")
KIN_F = _words("grandmother, mother, sister, aunt, neighbour, teacher, cousin")
KIN_M = _words("grandfather, father, brother, uncle, neighbour, teacher, cousin")

OPENINGS = _frames("""
    once upon a time there [was|lived] {hero_a}. {he} lived in {home}[ and loved {food}|, far from
      everyone| with {his} {kin}||].

    once upon a time, in {home}, there lived {hero_a}.

    {time}, {weather}, and {H} [could not sit still|was walking to {place3}|woke up early|had
      nothing to do|was eating {food}].

    {H} was {hero_bare} who lived in {home}. [everyone knew {him}.|nobody knew {him} well.|{he}
      had one friend, {F}.||]

    there was once {hero_a} who [never stopped asking questions|loved {place3} more than
      anything|always carried {obj_a}|was afraid of the dark|wanted to see the world|counted the
      stars every night|talked to the birds].

    in {home} lived {hero_a}. [every day|every morning|every evening] {he} [went to {place3}|fed
      the birds|sang while {he} worked|sat by the window|made {food} for {his} {kin}].

    {time}, {H} [looked out of the window|opened the door|went outside]. {weather}.

    long ago, when [the winters were colder|the forest was still young|bears could talk|nobody had
      clocks], there lived {hero_a}.

    [this is the story of|let me tell you about|do you know] {H}, {hero_a_bare}. {he} lived in
      {home}.
""")
LOSSES = _frames("""
    {he} had {obj_a} that {his} {kin} had given {him}. {time_then} it was gone. {he} looked
      [everywhere|in every corner|under the table and behind the stove], but {he} could not find
      it.

    [but that day|then] {he} lost {his} {obj}. {he} [cried a little|felt terrible|sat down and
      thought hard|did not tell anyone]. "[where can it be|why am I so careless|what will my {kin}
      say]?" [{he} said|{H} whispered|{he} thought].

    {time_then}, {his} {obj} fell [into the water|out of {his} bag|through a hole in {his} pocket]
      somewhere near {place}. without it, {he} could not [sleep|go home|smile|work].
""")
SEARCHES = _frames("""
    first {he} went to {place}. {nothing}. then {he} went to {place2}. [there {he} met {F}|there
      stood {F}], {friend_a}.

    {H} asked [the {job}|the {animal}|everyone in the street]. "[no, I have not seen it|try
      {place2}|ask {F}|look again]!" was the answer. so {he} walked on to {place2}, where {F},
      {friend_a}, was waiting.

    {he} [walked|ran|hurried] all the way to {place2}. {F}, {friend_a}, came along the road.
      "[what are you looking for|why are you so sad|what is the matter]?" asked {F}. "I have lost
      my {obj}," said {H}. "[then let us look together|four eyes are better than two|I will help
      you|do not worry]," said {F}.
""")
FINDS = _frames("""
    they looked for a long time, and at last they found it {spot}. [it was wet, but not broken.|it
      was covered in dust.|it was exactly as it had been.|somebody had cleaned it!|a {animal} was
      guarding it.]

    [suddenly|after an hour|just when they wanted to give up], {F} [pointed|laughed|shouted].
      there it was, {spot}! {H} [jumped for joy|could not believe it|hugged {F}|picked it up and
      held it tight].

    the {obj} was not there. but {spot} they found [a note|a small box|a trail of footprints], and
      it led them to {place}. there, {spot2}, lay the {obj}.
""")
DESIRES = _frames("""
    [more than anything,|for a long time|every year] {H} wanted to {skill}. but [{he} was too shy
      to ask|nobody had time to teach {him}|every time {he} tried, it went wrong|the others
      laughed at {him}].

    "I will never learn to {skill}," [said {H}|sighed {H}|{H} told {F}]. {he} had tried [three
      times|all summer|a hundred times], and {he} was [tired|angry|sad].

    everyone in the family could {skill}, only {H} could not. {time_then} {he} decided to [try
      again|ask {F}|practise in secret].
""")
PRACTICE = _frames("""
    {F}, {friend_a}, [saw {him}|heard about it|sat down next to {him}]. "[start slowly|breathe
      first|nobody can do it at once|watch me|it took me two years]," said {F}. so they [went to
      {place}|met every evening|began with something small].

    {he} practised at {place}. on the first day {he} fell [down|asleep|into the water]. on the
      second day it was [a little better|even worse|almost right]. on the third day {F} came and
      [helped {him}|showed {him} how|clapped {fhis} hands].

    day after day {he} practised, [in the rain and in the sun|before breakfast|when nobody was
      looking]. {F} gave {him} [{food}|some good advice|an old book] and said, "[do not hurry|you
      are getting better|mistakes are good teachers]."
""")
SUCCESS = _frames("""
    and {time_then} it worked! {H} could {skill}. {he} [laughed out loud|ran home to tell {his}
      {kin}|did it again and again].

    at the end of the month, {he} could {skill} better than [{his} {kin}|anyone in the
      village|{F}]. "[I knew it|well done|now you can teach me]," said {F}.

    it was not perfect, but it was {his} own. [everybody clapped.|{F} smiled.|even the {job} was
      impressed.]
""")
ERRANDS = _frames("""
    {his} {kin} was [ill|waiting far away|too old to walk], so {H} had to carry {obj_a} to
      {place}. "[be careful|come back before dark|do not stop on the way|take some {food}]," said
      the {job}.

    {time_then} a letter came. it said: "[please bring the {obj} to {place}|I need your help at
      {place}|come to {place} and tell nobody]." it was from {F}. {H} [packed {his} bag|put on
      {his} coat|took some {food}] and left.

    {H} wanted to see {place}, because {F} had told {him} about [the lights|the singing stones|a
      {look} {thing2}|a talking {animal}] there. so {he} packed [{food}|a rope and {food}|{his}
      {obj}] and set off.
""")
TROUBLES = _answers("""
    the bridge was broken and the water was deep => {he} found a fallen tree and crossed on it,
      step by step

    the bridge was gone => a {animal} showed {him} a place where the river was shallow

    the fog was so thick that {he} could not see {his} own feet => {he} followed the sound of the
      bell until the path was clear

    {he} took the wrong path and soon {he} was lost => {he} climbed a tree and saw the smoke of a
      chimney far away

    a big dog stood in the way and growled => {he} gave it some {food}, and the dog wagged its
      tail

    it began to snow and the road disappeared => {he} waited in a barn until the sky was clear
      again

    the gate was locked => {he} [called for the {job}|found the key {spot}|squeezed under it], and
      so {he} came in

    the bag was too heavy => {he} asked {F} for help, and together they carried it easily

    night fell, and strange sounds came from the trees => {he} lit {his} lantern and sang until
      {he} was not afraid any more

    the wind blew {his} hat and map away => {he} asked the {animals}, who knew every path

    the wheel of the cart broke => a {job} came by and repaired it with a piece of wood

    the last boat had already left => the ferryman took {him} across for [a song|a coin|a bag of
      nuts]

    a storm came up from the sea => {he} hid in the lighthouse, and the {job} made [tea|soup] for
      {him}

    {he} met a wolf who was hungry => {he} told the wolf a story so long that it fell asleep
""")
ARRIVALS = _frames("""
    at last {he} came to {place}. [{F} was already there.|the {job} opened the door.|it was even
      more beautiful than in {his} dreams.] "[you made it|thank you|come in and sit down|what a
      journey]!" said {F}.

    when {H} finally reached {place}, [the sun was going down|the bells were ringing|everyone was
      asleep|the {animals} were dancing]. {F}, {friend_a}, gave {him} [{food}|{obj2_a}|a warm bed]
      and {he} told the whole story.
""")
MAKES = _frames("""
    {H} wanted to make {making} for {F}, {friend_a}. [it was a secret.|it had to be ready by
      Sunday.|{F} had a birthday soon.] {he} needed [wood and nails|flour and eggs|paper and
      glue|wool|string and cloth|many good ideas], and {he} went to {place} to get it.

    "[I am bored|it is too quiet here|winter is long]," said {F}, {friend_a}. "let us make
      {making}!" {H} [liked the idea|was not sure|ran to fetch {his} tools], and they began [at
      once|after breakfast|the next day].
""")
MISHAPS = _frames("""
    [but|however,] the [first one|first try] [fell apart|burned|was too small|looked like a
      potato]. the second one was [worse|too big for the door|eaten by a {animal}]. {H}
      [sighed|laughed|threw {his} hat on the floor]. then {he} [asked the {job}|read a book about
      it|drew a plan|slept on it] and tried again.

    everything went well until the {animal} [ran off with the string|sat down on it|knocked over
      the paint|ate the flour]. "oh no!" cried {H}. but {F} said, "[we can fix that|it looks
      better now|let us start again|never mind]."
""")
RESULTS = _frames("""
    in the end it was [not straight, but strong|the finest in the whole town|ready just in time|a
      little crooked and very beautiful]. {F} [could not stop smiling|danced around it|kept it for
      many years|said it was the best present of all].

    when it was done, they [carried it to {place}|showed it to everyone|sat down beside it] and
      [ate {food}|drank hot chocolate|sang an old song] until {night}.
""")
MEETINGS = _frames("""
    [a stranger came to the village|somebody knocked at the door]. it was {F}, {friend_a}. "[I
      have walked for three days|my house has burned down|I am looking for {place}]," said {F}.
      {H} [gave {him2} {food}|opened the door wide|thought for a moment].

    {he} was new there and did not know anyone. {time_then} {he} saw {F}, {friend_a}, [sitting
      alone at {place}|reading under a tree|trying to {skill}]. "[may I sit here|is this your
      {obj}|what is your name|do you live here]?" asked {H}. {F} [looked up|nodded|smiled].

    at {place} {he} met {F}, {friend_a}. at first they did not like each other, because [both
      wanted the same {obj}|{F} was too loud|{H} never said a word|{F} had eaten all of the
      {food}].
""")
SHARING = _frames("""
    they [shared some {food}|talked about {place}|found out that both of them could {skill}|played
      with {obj_a}] until {night}. "[see you tomorrow!|I have never laughed so much!|will you come
      again?]" said {F}.

    then [it began to rain|a {animal} fell into the pond|the {job} called for help], and they had
      to [run|work together|find shelter at {place2}]. after that, {nothing_else}.
""")
NOISES = _frames("""
    in the snow before {place} there were [strange footprints|drops of blue paint|small holes].
      nobody knew who had made them. "[I want to know|this is a riddle|come with me]," said {H} to
      {F}, {friend_a}. together they followed them to {place2}, past the {job}'s house and [over
      the fence|through the trees|along the river].

    every night there was a strange [noise|light|smell] at {place}. "it is a
      [ghost|dragon|thief]!" said the {job}. but {H} did not believe it. {time_then} {he} took
      {his} lantern and {obj_a} and went to see. {F}, {friend_a}, came too.

    somebody was stealing the {food} from {place}. in the morning there were always [small
      footprints|feathers|three blue buttons] on the floor. {H} and {F}, {friend_a}, decided to
      find out who it was. they hid {spot} and waited.
""")
ANSWERS = _frames("""
    [at midnight|after a long time|when the moon came out], something moved. {H} held {his}
      breath. it was only [a {animal} with her little ones|a {animal} looking for a place to
      sleep|a {animal} who could not sleep|a {animal} with a bad cold|a lost {animal}]! they both
      laughed. {animal_kind}

    "[who is there?|come out!|do not be afraid!]" called {H}. out came a very small {animal}. "[I
      was hungry|I was so lonely|I only wanted to hear the music|I am sorry]," it said.
      {animal_kind}
""")
FABLES = _frames("""
    in a hard winter, a {animal} [found {obj_a} {spot}|found the last {food} of the year|built a
      house of snow at {place}]. a {animal2} came by and said, "[that belongs to me|I saw it
      first|give me half of it]." "[why should I|who are you|do you think so]?" said the {animal},
      and they quarrelled until [the sun went down|both were hungry|nobody knew who was right].

    the {animal} was afraid of [water|the dark|loud sounds], and all the other animals laughed,
      only the {animal2} did not. "[I am afraid of snakes|everyone is afraid of something|come
      with me to {place}]," said the {animal2}.

    [a|an old|a proud|a hungry] {animal} and a {animal2} [met at {place}|lived on the same
      hill|wanted the same berries]. "I am [faster|stronger|wiser|more beautiful] than you," said
      the {animal}. "[perhaps|we will see|that may be true]," said the {animal2}. so they agreed
      to [race to {place2}|ask the owl|carry a stone up the hill|count all the stars].

    the {animal} had [a whole barrel of apples|a warm nest|a secret well], and the {animal2} had
      nothing. "[please share with me|may I come in|give me a little]!" said the {animal2}. but
      the {animal} [shook its head|closed the door|pretended to sleep].
""")
LESSONS = _frames("""
    [after an hour|in the middle of the night|when the wind changed], the {animal} [became
      tired|began to cry|could not go on]. "[take my hand|let me help you|we can do it together],"
      said the {animal2}. the {animal} [was ashamed|said nothing for a while|smiled], and then
      they [went on side by side|shared some {food}|both laughed]. [{moral}.|the end.]

    [on the way|that night|three days later], the {animal} [fell into a hole|lost its way|was
      caught in a net|became ill], and nobody but the {animal2} [stopped to help|heard it cry|knew
      what to do]. from that day on, they [were friends|shared everything|never quarrelled again].
      [{moral}.|]

    the {animal2} [took one small step after another|said nothing and worked|had a good idea], and
      in the end it was the {animal} who had to say, "[I was wrong|you are right|I have learned
      something today]." {moral}.
""")
MORALS = _words("""
    a small friend can be a great help, those who share are never alone, slow feet also reach the
    top, a kind word costs nothing, it is better to ask than to guess, the loudest is not always
    the strongest, who helps today is helped tomorrow, an honest answer is the shortest road, good
    things take time
""")
ENDINGS = _frames("""
    {H} went home and felt {feel}. [{weather}.|]

    from that day on, {H} and {F} [were friends|met at {place} every week|never went anywhere
      alone|told the story again and again].

    that night {he} slept well and dreamed of [{place}|the sea|a {look} {thing2}|flying].

    "[what a day|tomorrow we will do it again|I will never forget this]!" said {H}, and {F}
      [laughed|nodded|gave {him} some {food}].

    and if you go to {place}, you can still [see it|hear them laugh|find the {obj} there|smell the
      {food}].

    {H} had learned something: {moral}.

    they ate {food} together, and everybody was {feel}. [the end.|]

    {he} put the {obj} [on the shelf|back in its place|next to {his} bed] and looked at it for a
      long time.

    [and so they lived happily ever after.|so it ended well.|the end.]
""")
LETTERS = _frames("""
    dear {F}, ¶ [how are you?|thank you for your letter.|I hope you are well.] {weather_now} here.
      yesterday I went to {place} with my {kin}, and we [saw a {animal}|found {obj_a} {spot}|ate
      {food}|tried to {skill}]. [I was {feel}.|it was a good day.|you would have liked it.] [do
      you still want to {skill}|when will you visit us|have you finished {making}]? [please write
      soon.|bring your {obj} when you come.|I am making {making} for you.] ¶ [your friend|with
      love|yours], {H}

    {day}. [today {weather}|I got up late today|I could not sleep last night]. I went to {place}
      and met {F}, {friend_a}. we [talked about {place2}|looked for {obj_a}|shared some
      {food}|tried to {skill}, but we could not]. {F} said, "{moral}." [I think that is true|I
      will think about it|I am not so sure]. [tomorrow I want to make {making}.|now I am tired and
      {feel}.|my {kin} made {food} for dinner.]
""")
SCENES = _frames("""
    [early in the morning|at noon|in the evening], {place} was [quiet|full of people|covered in
      mist]. the {job} [opened the door|carried a heavy basket|was selling {food}]. a {animal}
      [slept in the sun|ran across the road|looked for something to eat]. {F} and {H} sat [on the
      wall|near the well|under a tree] and [watched|counted the carts|shared some {food}].

    {weather}. at {place} [nothing moved|the children were playing|an old {job} was waiting].
      somebody had left {obj_a} {spot}, and a {animal} looked at it [with great interest|for a
      while|from far away]. then [the bell rang|the wind came up|{H} came], and [everything
      changed|the {animal} ran away|it was time to go home].
""")
VARIED = dict(
    _answers("""
    time_then => [one day|then one evening|the next morning|a week later|that night|on
      Sunday|soon]

    nothing => [it was not there|there was nothing|nobody had seen it|only a {animal2} was
      there]

    nothing_else => [nobody could separate them|they were the best of friends|they met every
      day|they often laughed about it]

    night => [the stars came out|it was dark|the moon stood over {place}|the fire went
      out|{his} {kin} called]

    animal_kind => [they gave it {food}, and it never came back hungry.|so they made it a bed
      {spot2}.|now it lives with {H}, and its name is {pet}.|the next day they told everyone,
      but only {F} was believed.|]
""")
)
DAYS = _words("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")
MONTHS = _words("""
    January, February, March, April, May, June, July, August, September, October, November,
    December
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Someone a story is about: a name, what they are, and the pronouns that go with them."""

    name: str
    kind: str
    female: bool


def _figure(rng: random.Random, avoid: str = "") -> Figure:
    female = rng.random() < 0.5
    while True:
        roll = rng.random()
        if roll < 0.4:
            name, kind = rng.choice(GIRLS if female else BOYS), "girl" if female else "boy"
        elif roll < 0.75:
            name, kind = rng.choice(PETS), rng.choice(ANIMALS)
        else:
            job = rng.choice([j for j in JOBS if not (female and j.endswith("man"))])
            name, kind = rng.choice(GIRLS if female else BOYS), job
        if name != avoid:
            return Figure(name=name, kind=kind, female=female)


def _slots(rng: random.Random, hero: Figure | None = None) -> dict[str, str]:
    pick = rng.choice
    hero = hero or _figure(rng)
    friend = _figure(rng, avoid=hero.name)
    place, place2, place3 = rng.sample(PLACES, 3)
    animal, animal2 = rng.sample(ANIMALS, 2)
    spot, spot2 = rng.sample(SPOTS, 2)
    thing, thing2 = rng.sample(THINGS, 2)
    look, look2 = rng.sample(LOOKS, 2)
    time = pick(TIMES)
    weather = pick(NIGHT_WEATHER if "night" in time or "evening" in time else WEATHER)
    lair = hero.kind in ANIMALS and rng.random() < 0.5
    obj = f"{look} {thing}"
    named = f"{pick(TRAITS)} {hero.kind}"
    return {
        "H": hero.name,
        "hero_a": f"a {named} named {hero.name}",
        "hero_bare": f"a {named}",
        "hero_a_bare": f"a {named}",
        "he": "she" if hero.female else "he",
        "him": "her" if hero.female else "him",
        "his": "her" if hero.female else "his",
        "F": friend.name,
        "friend_a": f"a {pick(TRAITS)} {friend.kind}",
        "fhis": "her" if friend.female else "his",
        "him2": "her" if friend.female else "him",
        "place": place,
        "place2": place2,
        "place3": place3,
        "animal": animal,
        "animal2": animal2,
        "animals": PLURALS.get(animal, f"{animal}s"),
        "spot": spot,
        "spot2": spot2,
        "thing2": thing2,
        "look": look2,
        "weather": weather,
        "weather_now": _PAST.sub(lambda m: _NOW[m[0]], weather),
        "home": pick(HOLLOWS if lair else HOMES),
        "obj": obj,
        "obj_a": f"a {obj}",
        "obj2_a": f"a {look2} {thing2}",
        "job": pick(JOBS),
        "food": pick(FOODS),
        "skill": pick(SKILLS),
        "making": pick(MAKINGS),
        "time": time,
        "feel": pick(FEELS),
        "moral": pick(MORALS),
        "day": pick(DAYS),
        "kin": pick(KIN_F if rng.random() < 0.5 else KIN_M),
        **VARIED,
        "pet": pick(PETS),
    }


def _beats(rng: random.Random) -> list[tuple[str, ...]]:
    """Returns the paragraphs of one plot, each a tuple of sentence frames."""
    pick = rng.choice
    trouble, way_out = pick(TROUBLES)
    link = pick(("on the way, ", "but ", "after an hour, ", "then ", "soon ", "halfway there, "))
    thought = pick(
        (
            '"[what now?|what shall I do?|this cannot be true!]" thought {H}. ',
            "{H} did not give up. ",
            "{H} thought hard. ",
            "",
        )
    )
    obstacle = (
        f"{link}{trouble}. {thought}{pick(('', 'so ', 'then ', 'at last ', 'luckily '))}{way_out}."
    )
    opening, ending = pick(OPENINGS), "{ending}"
    plots: tuple[list[tuple[str, ...]], ...] = (
        [(opening, pick(LOSSES)), (pick(SEARCHES),), (pick(FINDS), ending)],
        [(opening, pick(DESIRES)), (pick(PRACTICE),), (pick(SUCCESS), ending)],
        [(opening, pick(ERRANDS)), (obstacle,), (pick(ARRIVALS), ending)],
        [(opening,), (pick(MAKES), pick(MISHAPS)), (pick(RESULTS), ending)],
        [(opening, pick(MEETINGS)), (pick(SHARING), ending)],
        [(opening,), (pick(NOISES),), (pick(ANSWERS), ending)],
        [
            (opening, "{time_then} {H} set off for {place2}.", obstacle),
            (pick(MEETINGS), pick(SHARING)),
            (ending,),
        ],
        [(pick(FABLES),), (pick(LESSONS),)],
    )
    return rng.choices(plots, weights=(5, 4, 5, 4, 3, 4, 2, 3))[0]


def story(rng: random.Random, hero: Figure | None = None, paragraphs: int | None = None) -> str:
    """Returns one story; `hero` fixes who it is about, `paragraphs` cuts it short."""
    slots = _slots(rng, hero)
    roll = rng.random()
    if hero is None and roll < 0.08:
        return expand(rng, rng.choice(LETTERS), slots).rstrip()
    if hero is None and roll < 0.14:
        return expand(rng, rng.choice(SCENES), slots).rstrip()
    beats = _beats(rng)
    while hero is not None and beats[0][0] in FABLES:
        beats = _beats(rng)
    text = "\n\n".join(" ".join(frames) for frames in beats[:paragraphs])
    known = [e for e in ENDINGS if "{obj}" not in e or "{obj" in text]
    text = text.replace("{ending}", rng.choice(known))
    return re.sub(r" +(\n|$)", r"\1", expand(rng, text, slots)).replace("  ", " ")


COLOURS = _pairs("""
    the sky: blue, grass: green, snow: white, coal: black, a lemon: yellow, a ripe tomato: red, an
    orange: orange, chocolate: brown, the sea: blue, a crow: black, milk: white, a frog: green,
    the sun: yellow, a carrot: orange, a strawberry: red, a mouse: grey, a plum: purple, gold:
    yellow, a leaf in summer: green, a polar bear: white
""")
SOUNDS = _pairs("""
    cow: moo, dog: woof, cat: meow, sheep: baa, duck: quack, pig: oink, horse: neigh, hen: cluck,
    frog: croak, owl: hoot, bee: buzz, lion: roar, mouse: squeak, crow: caw, goose: honk, donkey:
    hee-haw, wolf: howl, snake: hiss
""")
LAIRS = _pairs("""
    fish: in the water, bird: in a nest, bear: in a cave, bee: in a hive, fox: in a den, rabbit:
    in a burrow, spider: in a web, horse: in a stable, camel: in the desert, penguin: on the ice,
    whale: in the sea, monkey: in the trees, cow: on a farm, frog: near the pond, owl: in a hollow
    tree, mole: under the ground
""")
OPPOSITES = _pairs("""
    hot: cold, big: small, up: down, day: night, happy: sad, fast: slow, young: old, light: dark,
    open: closed, wet: dry, soft: hard, loud: quiet, full: empty, early: late, near: far, good:
    bad, left: right, strong: weak, long: short, first: last, rich: poor, true: false, heavy:
    light, clean: dirty, thick: thin, brave: afraid, high: low
""")
CAPITALS = _pairs("""
    France: Paris, Italy: Rome, Spain: Madrid, Germany: Berlin, Japan: Tokyo, Norway: Oslo, Egypt:
    Cairo, Kenya: Nairobi, Peru: Lima, Cuba: Havana, Greece: Athens, Portugal: Lisbon, Poland:
    Warsaw, Austria: Vienna, Ireland: Dublin, Sweden: Stockholm, Finland: Helsinki, China:
    Beijing, India: New Delhi, Canada: Ottawa, Iceland: Reykjavik
""")
USES = _pairs("""
    spoon: eating soup, knife: cutting bread, key: opening a door, umbrella: staying dry in the
    rain, lantern: seeing in the dark, clock: telling the time, map: finding the way, needle:
    sewing cloth, bed: sleeping, boat: crossing the water, broom: sweeping the floor, ladder:
    climbing up, book: reading, pen: writing, oven: baking bread, scarf: keeping warm, bell:
    calling people, compass: finding north, hammer: hitting nails, basket: carrying things
""")
SIZES = _words("an ant, a mouse, a rabbit, a cat, a sheep, a horse, an elephant, a whale")
RECIPES = _answers("""
    make tea => [first,|] boil some water. [then|next,] put the tea in a cup and pour the hot
      water over it. wait for [three|four] minutes[, and add honey if you like|].

    bake bread => mix flour, water, salt and yeast. [let the dough rest for an hour|wait until the
      dough is big and soft]. then bake it in a hot oven until it is brown.

    plant a tree => dig a hole[ that is deep enough|]. put the young tree into it, fill the hole
      with earth and give it plenty of water.

    make a kite => you need two thin sticks, paper, glue and a long string. tie the sticks into a
      cross, glue the paper on them and add a tail. then [run against the wind|wait for a windy
      day].

    fall asleep => [turn off the light|close your eyes], breathe slowly and think of [a quiet
      place|the sea|something pleasant].

    make soup => cut some carrots, potatoes and onions. cook them in water with a little salt
      until they are soft. [serve it hot.|]

    find a friend => be kind, ask questions and listen. [share something.|say hello first.] good
      things take time.

    learn a song => listen to it [three times|again and again], then sing one line after another.
      [it is fine to make mistakes.|]

    build a snowman => roll three big balls of snow and put them on top of each other. use stones
      for the eyes and a carrot for the nose.

    wash a dog => use warm water and a little soap, and speak kindly. then dry the dog with a
      towel, and stand back when it shakes.
""")
SMALL_TALK = _answers("""
    [hello|hi|good morning|hey|good evening][!|.| there!] => [hello|hi|good day]! [how can I help
      you?|would you like to hear a story?|it is nice to meet you.|what shall we talk about?]

    [who are you|what are you|what is your name|tell me about yourself][?|.] => I am a [tiny|very
      small] language model. [I can tell short stories and answer easy questions.|I was trained on
      little stories.|I run on small machines.]

    how are you[ today|]? => [I am fine, thank you|very well, thank you]. [and you?|how are
      you?|what would you like to talk about?]

    [thank you|thanks|thank you very much][!|.] => [you are welcome|it was a pleasure|any time]!
      [is there anything else?|]

    [goodbye|bye|see you tomorrow|good night][!|.] => [goodbye|see you soon|sleep well|take care]!
      [come back any time.|it was nice to talk to you.|]

    [I am|I feel] [sad|lonely|tired|afraid] [today|tonight|]. => [I am sorry to hear that|that is
      not easy]. [would you like to hear a story?|a walk and some {food} may help.|perhaps you can
      call a friend.|try to rest a little.]

    [I am|I feel] [happy|glad|proud] today[!|.] => [that is wonderful|I am glad to hear that]!
      [what happened?|tell me more.|]

    [can you|do you know how to] [write code|drive a car|see me|speak French|cook|solve hard
      problems]? => no, I [cannot do that|am too small for that]. [but] I can [tell you a
      story|answer an easy question].

    what can you do? => I can [tell short stories|tell you a story about a {animal}], [say what a
      cow says|name some capitals|tell you what a spoon is for] and answer other easy questions.

    [give me|I need|can you think of] a name for [a|my] {animal}[.|, please.|] => how about {pet}?
      [it is short and friendly.|I think it suits a {animal}.|]

    [what should I eat|what can I cook|what is good for dinner][ today| tonight|]? => how about
      {food}? [that is easy to make.|that is warm and good.|it tastes best with a friend.]

    [where should I go|what can I do] [today|on {day}|this weekend]? => you could [go to
      {place}|try to {skill}|make {making}|read a good book]. [take a friend with you.|]

    [do you like|have you ever tried] {food}? => I am only a model and cannot eat, but [many
      people like {food}|{food} sounds very good].

    [give me some advice.|tell me something wise.|what have you learned?] => {moral}.

    what is the weather like[ today|]? => I cannot look outside. [please open the window and tell
      me.|what do you see from your window?]

    [what is|do you know] the meaning of life? => [that is a big question for a small model.|I do
      not know.] [perhaps {moral}.|perhaps it is to share {food} with a friend.]
""")
STORY_ASKS = _frames("""
    [tell me|please tell me|I want to hear] a [short |little |]story[.| please.|, please.]

    [tell me|write|can you tell me] a story about [a {kind}|{H}|a {kind} named {H}].

    [write|make up] a [short |]story [with a {kind} in it|for my {kin}|that begins with the name
      {H}].
""")


def _fact(rng: random.Random) -> Turn:
    pick = rng.choice
    kind = rng.randrange(9)
    if kind == 0:
        thing, colour = pick(COLOURS)
        return (
            f"[what colour is|which colour has|do you know the colour of] {thing}?",
            f"{thing} is {colour}.",
        )
    if kind == 1:
        animal, sound = pick(SOUNDS)
        return (
            f"[what does a {animal} say|what sound does a {animal} make]?",
            f'a {animal} says "{sound}".',
        )
    if kind == 2:
        animal, lair = pick(LAIRS)
        return f"where does a {animal} live?", f"a {animal} lives {lair}."
    if kind == 3:
        word, other = pick(OPPOSITES)
        return f"what is the opposite of {word}?", f"the opposite of {word} is {other}."
    if kind == 4:
        country, capital = pick(CAPITALS)
        return f"what is the capital of {country}?", f"the capital of {country} is {capital}."
    if kind == 5:
        thing, use = pick(USES)
        return (
            f"[what is a {thing} for|what do you do with a {thing}|why do people have a {thing}]?",
            f"a {thing} is for {use}.",
        )
    if kind == 6:
        ring = pick((DAYS, MONTHS))
        at = rng.randrange(len(ring))
        step, word = pick(((1, "after"), (-1, "before")))
        other = ring[(at + step) % len(ring)]
        unit = "day" if ring is DAYS else "month"
        return f"[what|which {unit}] comes {word} {ring[at]}?", f"{other} comes {word} {ring[at]}."
    if kind == 7:
        left, right = rng.randrange(1, 11), rng.randrange(1, 11)
        return (
            f"[what is|how much is] {left} plus {right}?",
            f"{left} plus {right} is {left + right}.",
        )
    small, big = sorted(rng.sample(range(len(SIZES)), 2))
    one, two = rng.sample((SIZES[small], SIZES[big]), 2)
    side, which = pick((("bigger", big), ("smaller", small)))
    return (
        f"which is {side}, {one} or {two}?",
        f"{SIZES[which]} is {side} than {SIZES[small if which == big else big]}.",
    )


def _exchange(rng: random.Random) -> Turn:
    """Returns one question and its answer, both finished text."""
    roll = rng.random()
    if roll < 0.3:
        hero = _figure(rng)
        slots = _slots(rng, hero) | {"kind": hero.kind}
        return expand(rng, rng.choice(STORY_ASKS), slots), story(
            rng, hero, rng.choice((1, 2, 2, 3))
        )
    if roll < 0.65:
        ask, answer = _fact(rng)
    elif roll < 0.75:
        act, answer = rng.choice(RECIPES)
        ask = f"[how do I|how can I|how does one|please tell me how to] {act}?"
    else:
        ask, answer = rng.choice(SMALL_TALK)
    slots = _slots(rng)
    return expand(rng, ask, slots).strip(), expand(rng, answer, slots).strip()


SYSTEM = (
    "You are a friendly storyteller.",
    "You are a helpful assistant.",
    "Answer in one or two short sentences.",
)


def chat(rng: random.Random) -> tuple[Turn, ...]:
    """Returns (role, content) pairs: at times a system line, then one to three exchanges."""
    turns: list[Turn] = []
    if rng.random() < 0.2:
        turns.append(("system", rng.choice(SYSTEM)))
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3))):
        ask, answer = _exchange(rng)
        turns += [("user", ask), ("assistant", answer)]
    return tuple(turns)


def collection(rng: random.Random, stories: int) -> str:
    """Returns several stories as one text, parted by a line of stars."""
    return "\n\n* * *\n\n".join(story(rng) for _ in range(stories))


def documents(seed: int) -> Iterator[str | tuple[Turn, ...]]:
    """Yields documents without end: a `str` is prose, a tuple of turns is a conversation."""
    rng = random.Random(seed)
    while True:
        roll = rng.random()
        if roll < 0.45:
            yield story(rng)
        elif roll < 0.55:
            yield collection(rng, rng.randint(2, 4))
        else:
            yield chat(rng)
