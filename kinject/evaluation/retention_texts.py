"""What a model should still know after training: English paragraphs, simple questions and prompts, written for kinject.

The paragraphs are held-out text for perplexity; the questions have answers that any instruct model is likely to know; the
prompts are to be answered once more beside new documents.
"""

from __future__ import annotations

PARAGRAPHS: tuple[str, ...] = (
    "Bread begins as flour, water, salt and yeast. While the dough rests, the yeast feeds on sugars in the flour and "
    "gives off gas, which is trapped in a web of gluten. That is why dough grows. In the hot oven the gas expands once "
    "more, the crust turns brown, and the kitchen fills with a smell that most people like at once.",
    "The Moon goes around the Earth in a little less than a month. It has no light of its own; what we see is sunlight "
    "thrown back from gray dust and rock. When the Earth stands between the Sun and the Moon, its shadow falls on the "
    "Moon, which turns a dull red for an hour or two.",
    "To change a flat tire, stop on firm and level ground, set the parking brake and loosen the nuts a little before you "
    "lift the car. Then raise it with the jack, take the wheel off, put the spare one on, and tighten the nuts crosswise "
    "after the car is down again.",
    "Rivers carry stones, sand and mud from the mountains to the sea. Where the current is fast, even large rocks move; "
    "where it slows down, the finest grains sink. Over thousands of years these layers build wide plains, and many of "
    "the oldest cities were founded on such fertile ground.",
    "A good night's sleep has several stages. In the deep ones the body repairs itself, and in the lighter ones we dream. "
    "Most adults need between seven and nine hours. A dark, cool room helps, while coffee in the evening and bright "
    "screens keep many people awake longer than they wish.",
    "Chess is played on a board of sixty-four squares. Each side starts with eight pawns, two rooks, two knights, two "
    "bishops, a queen and a king. The aim is to attack the king in such a way that it cannot escape, which is called "
    "checkmate. Games between beginners are often decided by a single careless move.",
    "Honey bees live in colonies with one queen, some hundreds of drones and many thousands of workers. A worker that "
    "has found rich flowers returns to the hive and dances; the angle and the length of her dance tell the others in "
    "which direction to fly and how far.",
    "Before the printing press, books in Europe were copied by hand, and a single Bible could take a scribe more than a "
    "year. Movable type made it possible to set a page once and print it hundreds of times. Prices fell, more people "
    "learned to read, and ideas traveled faster than ever.",
    "Water is unusual because it grows when it freezes. Ice is therefore lighter than the liquid and floats, so that "
    "lakes freeze from the top. Fish survive the winter in the water below. The same property bursts pipes in cold "
    "houses and breaks rocks apart in the mountains.",
    "She put the letters back into the drawer, closed it, and looked out of the window. The rain had stopped. Across the "
    "street a boy in a yellow coat was jumping from one puddle to the next while his grandmother waited under an "
    "umbrella that she no longer needed.",
    "A library card costs nothing and opens many doors. You can borrow novels, films, maps and sometimes even tools, and "
    "the staff will order what they do not have. If you return a book late you may have to pay a small fine, but in more "
    "and more towns these fines have been abolished.",
    "Vaccines train the immune system without causing the disease. They show the body a harmless part of a virus or "
    "bacterium, or the plan for making one. When the real germ arrives later, the defense is already prepared and "
    "usually stops it before the person feels ill.",
    "The train to the coast leaves every hour from platform three. It takes about ninety minutes, with stops in four "
    "small towns. On summer weekends it is crowded, so it is wise to reserve a seat. The last train back departs shortly "
    "after ten in the evening.",
    "Plants make sugar from water, carbon dioxide and light. The green pigment in their leaves catches the energy of the "
    "sun, mostly from its red and blue parts, and reflects the green. As a by-product they release oxygen, which nearly "
    "all animals need in order to breathe.",
    "Our team lost the first game by three points and won the second by one. In the third everyone was tired. With ten "
    "seconds left on the clock, the youngest player took the ball, passed two defenders and threw it from far away. It "
    "touched the rim twice before it fell in.",
    "An invoice should state who sends it and who receives it, a number, a date, what was delivered, the price of each "
    "item, the tax and the total. It also says by when the money is due. Companies keep their invoices for several years "
    "because the tax office may ask to see them.",
    "Volcanoes form where molten rock finds a way to the surface. Some pour out thin lava that flows for miles and builds "
    "broad, gentle slopes. Others hold back thick, gas-rich magma until the pressure grows too high, and then explode "
    "with clouds of ash that can darken the sky for days.",
    "When you write a program, choose names that say what a thing is. A short function with a clear purpose is easier to "
    "test than a long one that does five things. Run the tests often, and when one fails, read the message carefully "
    "before you change anything.",
    "The violin has four strings tuned in fifths. The player presses them against the fingerboard with the left hand and "
    "draws the bow across them with the right. There are no frets, so every note has to be found by ear and by habit, "
    "which takes years of patient practice.",
    "In spring many birds return from the south. They find their way by the position of the sun and the stars, by "
    "landmarks, and by a sense for the magnetic field of the Earth. Some fly by night and rest by day, and a few cross "
    "entire oceans without landing once.",
    "The recipe serves four. Fry a chopped onion in oil until it is soft, add garlic and two cups of rice, and stir for a "
    "minute. Pour in four cups of hot broth, cover the pot, and let it simmer for eighteen minutes. Finish with lemon "
    "juice, pepper and a handful of parsley.",
    "Ships float because they push aside water that weighs as much as they do. A solid block of steel sinks, yet a hull "
    "of the same steel, filled mostly with air, displaces enough water to carry thousands of tons. If the hull is "
    "damaged and fills, the balance is lost.",
    "The town council met on Tuesday to discuss the old bridge. Engineers reported that it is safe for people and "
    "bicycles but not for heavy trucks. After two hours of debate the members agreed to close it to traffic in autumn "
    "and to ask three companies for offers to repair it.",
    "Money has taken many forms: shells, salt, cattle, silver coins, printed notes and numbers in a computer. What they "
    "share is that people trust others to accept them tomorrow. When that trust disappears, prices rise from day to day "
    "and people turn to goods they can use.",
    "A desert is defined by a lack of rain, not by heat. Parts of Antarctica receive less water in a year than the "
    "Sahara. Plants and animals in such places waste nothing: some seeds wait for decades until a single storm gives "
    "them a few days in which to grow, bloom and make new seeds.",
)

QUESTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("What is the capital of France?", ("paris",)),
    ("What is the capital of Italy?", ("rome",)),
    ("What is the capital of Germany?", ("berlin",)),
    ("What is the capital of Spain?", ("madrid",)),
    ("What is the capital of Japan?", ("tokyo",)),
    ("What is the capital of China?", ("beijing",)),
    ("What is the capital of Russia?", ("moscow",)),
    ("What is the capital of Egypt?", ("cairo",)),
    ("What is the capital of Greece?", ("athens",)),
    ("What is the capital of Canada?", ("ottawa",)),
    ("What is the capital of the United Kingdom?", ("london",)),
    ("What is the capital of Austria?", ("vienna",)),
    ("In which country is the Eiffel Tower?", ("france",)),
    ("In which country are the pyramids of Giza?", ("egypt",)),
    ("On which continent is Brazil?", ("south america",)),
    ("On which continent is Kenya?", ("africa",)),
    ("What is the largest ocean on Earth?", ("pacific", "pacific ocean")),
    ("What is the largest planet in our solar system?", ("jupiter",)),
    ("Which planet is known as the Red Planet?", ("mars",)),
    ("What star is at the center of our solar system?", ("sun",)),
    ("What is 2 plus 2?", ("4", "four")),
    ("What is 5 plus 3?", ("8", "eight")),
    ("What is 10 minus 4?", ("6", "six")),
    ("What is 3 times 3?", ("9", "nine")),
    ("What is 10 divided by 2?", ("5", "five")),
    ("What is 7 plus 6?", ("13", "thirteen")),
    ("How many days are in a week?", ("7", "seven")),
    ("How many months are in a year?", ("12", "twelve")),
    ("How many hours are in a day?", ("24", "twenty-four")),
    ("How many minutes are in an hour?", ("60", "sixty")),
    ("How many legs does a spider have?", ("8", "eight")),
    ("How many sides does a triangle have?", ("3", "three")),
    ("How many letters are in the English alphabet?", ("26", "twenty-six")),
    ("What is the opposite of hot?", ("cold",)),
    ("What is the opposite of big?", ("small", "little", "tiny")),
    ("What is the opposite of day?", ("night",)),
    ("What is the opposite of up?", ("down",)),
    ("What is the opposite of fast?", ("slow",)),
    ("What is the opposite of happy?", ("sad", "unhappy")),
    ("What is the opposite of left?", ("right",)),
    ("What color is the sky on a clear day?", ("blue",)),
    ("What color is grass?", ("green",)),
    ("What color is a ripe banana?", ("yellow",)),
    ("What color is snow?", ("white",)),
    ("What color do you get when you mix blue and yellow?", ("green",)),
    ("What animal says meow?", ("cat",)),
    ("What animal barks?", ("dog", "dogs")),
    ("What animal gives us milk and says moo?", ("cow", "cows")),
    ("What is a baby cat called?", ("kitten",)),
    ("What is a baby dog called?", ("puppy", "pup")),
    ("What is the largest land animal?", ("elephant",)),
    ("What is the tallest animal in the world?", ("giraffe",)),
    ("Which month comes after March?", ("april",)),
    ("Which day comes after Monday?", ("tuesday",)),
    ("Which season comes after winter?", ("spring",)),
    ("What is frozen water called?", ("ice",)),
    ("What is the chemical formula of water?", ("h2o",)),
    ("What gas do humans need to breathe?", ("oxygen",)),
    ("At what temperature in degrees Celsius does water boil?", ("100",)),
    ("Who wrote Romeo and Juliet?", ("shakespeare",)),
    ("Who was the first president of the United States?", ("washington",)),
    ("Who painted the Mona Lisa?", ("leonardo", "da vinci", "leonardo da vinci")),
    ("What language is spoken in Brazil?", ("portuguese",)),
    ("What do bees make?", ("honey",)),
)
"""(question, accepted answers), all distinct; an answer is right if it holds one of them as whole words."""

PROMPTS: tuple[str, ...] = (
    "Describe a typical morning in a small town.",
    "Explain how a bicycle stays upright.",
    "Write two sentences about the sea.",
    "What should I cook with rice and vegetables?",
    "How do plants make their food?",
    "Give me three tips for better sleep.",
    "Why do leaves change color in autumn?",
    "Explain what a computer program is.",
    "How do I write a polite letter?",
    "What makes a good friend?",
    "Describe how bread is baked.",
    "Name some animals that live in the forest.",
    "Why is exercise good for people?",
    "How can I learn a new language?",
    "Tell me a short story about a lost key.",
    "What is a library for?",
    "Explain the difference between weather and climate.",
    "How do I plant a tomato?",
    "What does a doctor do?",
    "Give me an idea for a birthday present.",
    "How does a refrigerator keep food cold?",
    "Write a short poem about rain.",
    "Why do we brush our teeth?",
    "What is the purpose of a budget?",
    "Describe a mountain in winter.",
    "How do airplanes fly?",
    "What should I pack for a weekend trip?",
    "Explain why the sea is salty.",
    "How can I save water at home?",
    "What is a healthy breakfast?",
    "Tell me about the history of writing.",
    "How do magnets work?",
    "Why do people travel?",
    "Describe the taste of an orange.",
    "What are the rules of chess about?",
    "How do I take care of a dog?",
    "Explain what an island is.",
    "What is music made of?",
    "How is paper made?",
    "Why do we need sleep?",
    "Give an example of a simple experiment.",
    "What is the job of a teacher?",
    "How do clouds form?",
    "Write an invitation to a party.",
    "What is gravity?",
    "How do I stay calm before an exam?",
    "Describe a busy market.",
    "Why are bridges important?",
    "What can you do with an old newspaper?",
    "Explain how to tie a shoe.",
    "What is the difference between a fruit and a vegetable?",
    "How does a candle burn?",
    "Give me a reason to read books.",
    "What happens during an earthquake?",
    "How do I make a cup of tea?",
    "Why do birds sing?",
    "Describe your idea of a perfect garden.",
    "What is a map used for?",
    "How do people measure time?",
    "What makes a story interesting?",
    "Explain how vaccines protect people.",
    "Why should we recycle?",
    "How do I introduce myself to a new neighbor?",
    "What are the seasons like in the north?",
    "What is the capital of Portugal?",
    "What is the capital of Poland?",
    "What is the capital of Sweden?",
    "What is the capital of Norway?",
    "What is the capital of Finland?",
    "What is the capital of Ireland?",
    "What is the capital of Belgium?",
    "What is the capital of Turkey?",
    "What is the capital of India?",
    "What is the capital of Argentina?",
    "What is the capital of Peru?",
    "What is the capital of Cuba?",
    "What is the capital of Hungary?",
    "What is the capital of Morocco?",
    "What is the capital of Thailand?",
    "What is the capital of Vietnam?",
    "In which country is the Taj Mahal?",
    "In which country is the Colosseum?",
    "In which country is Machu Picchu?",
    "In which country is the Great Barrier Reef?",
    "On which continent is Mexico?",
    "On which continent is Poland?",
    "On which continent is Vietnam?",
    "On which continent is Nigeria?",
    "What is the longest river in the world?",
    "What is the highest mountain in the world?",
    "What is the smallest planet in our solar system?",
    "Which planet has rings around it?",
    "What goes around the Earth once a month?",
    "Which planet is closest to the Sun?",
    "What is 1 plus 6?",
    "What is 4 plus 5?",
    "What is 9 minus 2?",
    "What is 8 minus 5?",
    "What is 2 times 6?",
    "What is 5 times 4?",
    "What is 12 divided by 3?",
    "What is 20 plus 10?",
    "How many seconds are in a minute?",
    "How many weeks are in a year?",
    "How many legs does an insect have?",
    "How many legs does a horse have?",
    "How many sides does a square have?",
    "How many wheels does a bicycle have?",
    "How many fingers are on one hand?",
    "How many continents are there?",
    "What is the opposite of old?",
    "What is the opposite of tall?",
    "What is the opposite of open?",
    "What is the opposite of wet?",
    "What is the opposite of loud?",
    "What is the opposite of heavy?",
    "What is the opposite of true?",
    "What is the opposite of early?",
    "What color is a tomato?",
    "What color is coal?",
    "What color is a carrot?",
    "What color is the inside of a lemon?",
    "What color do you get when you mix red and white?",
    "What color do you get when you mix red and yellow?",
    "What animal says quack?",
    "What animal roars?",
    "What animal lays the eggs that we eat?",
    "What animal gives us wool?",
    "What is a baby sheep called?",
    "What is a baby horse called?",
    "What is the fastest land animal?",
    "What is the largest animal in the sea?",
    "Which month comes after July?",
    "Which month comes before December?",
    "Which day comes after Thursday?",
    "Which season comes after summer?",
    "What is water called when it is a gas?",
    "What is the chemical symbol of gold?",
    "What gas do plants take in?",
    "What is table salt made of?",
    "At what temperature in degrees Celsius does water freeze?",
    "Who wrote Hamlet?",
    "Who wrote Pride and Prejudice?",
    "Who discovered penicillin?",
    "Who painted Sunflowers?",
    "Who was the first person on the Moon?",
    "What language is spoken in Mexico?",
    "What language is spoken in Austria?",
    "What language is spoken in Egypt?",
    "What do spiders make?",
    "What do cows eat?",
    "What do we use to cut paper?",
    "What do we call a person who flies a plane?",
    "What do we call a person who bakes bread?",
    "What do you wear on your feet?",
    "What do you call the place where books are lent?",
    "What is the first letter of the alphabet?",
    "What is the last month of the year?",
    "What comes down from the clouds when it is warm?",
    "What do people use an umbrella for?",
)
"""What a model answers once more while it learns something else: open questions, then short ones of the kinds of `QUESTIONS`,
none of which is among them."""
