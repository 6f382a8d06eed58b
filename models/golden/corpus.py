"""The sentences that the small tokenizers learn from, and the rows that the golden answers are computed on.

Written for this purpose: varied enough that a vocabulary of a few hundred pieces has whole words, word
parts, digits and punctuation in it. Nothing here is taken from a data set.
"""

SENTENCES = [
    "The coffee was cold and the waiter never came back.",
    "She walked along the river until the lights of the town went out.",
    "Our train leaves at 7:45, so please be ready before seven.",
    "I would not recommend this film to anyone over the age of ten.",
    "A good map is worth more than a fast horse.",
    "The children were playing in the garden while it was raining.",
    "He paid 12.50 for a sandwich and 3.20 for a cup of tea.",
    "What a wonderful surprise to see you here again!",
    "The engine stopped twice before we reached the top of the hill.",
    "Nobody knows who painted the small picture in the hallway.",
    "They won the match by two goals in the last five minutes.",
    "Could you tell me where the nearest station is?",
    "The new phone is lighter, but its battery is worse than the old one.",
    "My grandmother kept her letters in a wooden box under the bed.",
    "It's raining again, isn't it?",
    "The museum opens at nine and closes at half past five.",
    "We were promised a quiet room and were given one above the kitchen.",
    "An unexpected error happened while the file was being written.",
    "The soup needs more salt, a little pepper and much more time.",
    "Winter came early that year and stayed longer than anyone remembered.",
    "Please send the report to the office before Monday morning.",
    "The teacher explained the problem slowly and then explained it again.",
    "I have never been so disappointed by a book in my life.",
    "The road to the village is narrow, steep and beautiful.",
    "Three of the seven boxes were empty when they arrived.",
    "This is the best pizza I have eaten outside of Naples.",
    "The government announced a new plan for the northern railway.",
    "Her answer was short: no, never, not under any circumstances.",
    "The dog slept on the stairs and refused to move.",
    "A storm is expected over the western islands tonight.",
    "He repaired the old radio with a piece of wire and some patience.",
    "The tickets were cheap, the seats were hard, the music was perfect.",
    "Do you prefer the blue one or the green one?",
    "The laboratory measured the temperature every ten minutes.",
    "My flight was delayed for six hours without any explanation.",
    "The bread is baked every morning in a stone oven.",
    "She plays the violin, speaks four languages and cannot cook.",
    "The bank closed the account without telling the owner.",
    "It takes about forty minutes to walk around the lake.",
    "The battery lasts two days if you switch off the screen.",
    "Everything in the shop was broken, dusty or missing a part.",
    "The judge asked the witness to repeat the last sentence.",
    "We painted the kitchen yellow and regretted it at once.",
    "The computer restarted itself in the middle of the meeting.",
    "Their second album is louder, faster and far less interesting.",
    "The fisherman sold his boat and bought a small farm.",
    "Is there any reason to believe that the story is true?",
    "The doctor told him to rest, and he went back to work.",
    "You can return the shoes within thirty days of buying them.",
    "The bridge was built in 1894 and rebuilt in 1951.",
    "The hotel staff were friendly, helpful and always smiling.",
    "A cat sat by the window, watching the birds with great interest.",
    "Prices have risen by 8% since the beginning of the year.",
    "The play lasted three hours and felt like thirty minutes.",
    "He forgot his keys, his wallet and the name of the street.",
    "The scientists found a new kind of beetle in the forest.",
    "Why does the printer only fail when I am in a hurry?",
    "The garden looked lovely in the soft light of the evening.",
    "This update fixed two problems and caused twenty others.",
    "The old sailor told the same story every night, and we listened.",
    "La maison est petite mais le jardin est très grand.",
    "Das Wetter war schön, aber der Zug kam zu spät.",
]

# What the golden answers are about: one word, single texts, pairs, digits and accents, and one text well
# past any attention window of the fixtures.
TEXTS = [
    ["wonderful"],
    ["The coffee was cold."],
    [
        "The old sailor told the same story every night, and we listened while the rain "
        "came down on the narrow road."
    ],
    ["Is the hotel quiet?", "The staff were friendly."],
    [
        "My flight was delayed for six hours.",
        "Nobody at the station could tell us where the train was or when it leaves.",
    ],
    ["Café 12.50, naïve? It's 8% (or 1951) - isn't it!"],
    ["I have never been so disappointed by the second album; their first was perfect."],
    [
        "The scientists found a new kind of beetle in the forest, and the laboratory measured it every ten minutes.",
        "No.",
    ],
]

# Rows whose hidden states are kept at every place: the long text and a pair.
HIDDEN_ROWS = [2, 3]
