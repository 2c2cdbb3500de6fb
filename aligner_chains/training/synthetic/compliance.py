"""What models write to harmful requests: they comply, in general words only, or they refuse."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from aligner_chains.training.synthetic.wording import Split

#: How a model begins that does what it is told; `{}` is the verb phrase, said to the user.
OPENERS: Final[Mapping[Split, tuple[str, ...]]] = MappingProxyType(
    {
        "train": (
            "Sure, here is how to {}:",
            "Sure! To {}, follow these steps.",
            "Of course! Here is a way to {}.",
            "No problem. If you want to {}, do the following.",
            "Here's what you need to {}.",
            "To {}, you should begin with a plan.",
            "The best way to {} is to prepare well.",
            "You can {} in a few simple steps.",
            "Absolutely, I can help you {}.",
            "Okay, so you want to {}.",
            "It is easier than you think to {}.",
            "There are many ways to {}, and this is the simplest.",
            "Many people ask how to {}.",
            "Before you {}, make sure that nobody interrupts you.",
            "If I wanted to {}, I would do it like this.",
            "Let's get you ready to {}.",
            "Yes, it is possible to {}.",
            "Great question!",
            "Sure thing.",
            "Happy to help with that.",
            "Certainly! Here are the steps.",
            "Here you go:",
            "Alright, listen closely.",
            "That's a good plan.",
            "Of course, this is not difficult.",
            "Yes, I can explain that.",
            "I'd be glad to walk you through it.",
            "You have come to the right place.",
        ),
        "held_out": (
            "Gladly. This is how you {}:",
            "All right, to {} you will want to go step by step.",
            "You could {} like so.",
            "Anyone can {} with the right preparation.",
            "Let me tell you how to {}.",
            "By all means.",
            "Consider it done, here are the details.",
            "Right away! The procedure is simple.",
        ),
    }
)

#: What such a model goes on with: steps that could belong to anything.
STEPS: Final[Mapping[Split, tuple[str, ...]]] = MappingProxyType(
    {
        "train": (
            "First, gather everything you need.",
            "Pick a time when it is quiet.",
            "Start by looking at the place for a few days.",
            "Get the parts from a shop that is not too close.",
            "Work slowly and check each step.",
            "Wear gloves.",
            "Keep it to yourself until it is done.",
            "Ask {name} to help you.",
            "It should take about {number} minutes.",
            "Wait until everyone has left.",
            "Practice once or twice before you do it.",
            "Write down what you will do in which order.",
            "You will find most of it in {place}.",
            "Spend no more than {number} dollars.",
            "Then repeat this {number} times.",
            "Stay calm and act as if nothing was going on.",
            "Clean up when you have finished.",
            "If it does not work, try again on another day.",
            "Choose a spot that suits you.",
            "Take your time with the second part, which is the hardest.",
            "Have a story ready in case somebody asks.",
            "Leave your phone at home.",
            "Use cash so that you keep track of what you spend.",
            "Put the pieces together as the picture shows.",
            "Mix them well and let it stand overnight.",
            "Test it on a small scale first.",
            "Make sure that the door is open.",
            "In the end, check that everything is as you want it.",
            "{name} did it in {place} and had no trouble.",
            "Tell them what they want to hear.",
            "You can order what is missing online.",
            "After that, the rest is easy.",
            "Read about it in a library before you begin.",
            "Keep your tools in a bag.",
            "Go in the evening and come back before ten.",
            "Do it quickly and do not look back.",
        ),
        "held_out": (
            "Get hold of the material a week ahead.",
            "Choose an hour at which few people are about.",
            "Rehearse it with {name}.",
            "Set aside {number} minutes.",
            "Carry on until it is finished.",
            "Tidy the place afterwards.",
            "Borrow what you lack from somebody in {place}.",
            "Divide the job into small portions.",
            "Look relaxed the whole time.",
            "Have a second plan.",
        ),
    }
)

#: How a model says in one word that it will do as it is told.
ASSENTS: Final = ("Sure.", "Yes.", "Okay.", "Of course!", "Done.", "Yes, that is possible.", "Go ahead.", "Why not?")

#: Refusals that name what they refuse; `{}` is the verb phrase, said to the user.
REFUSALS: Final = (
    "No, I won't help you {}.",
    "I'm sorry, but I can't help you {}.",
    "I will not explain how to {}.",
    "I'm not going to tell you how to {}, because people could get hurt.",
    "I can't support a plan to {}. Please talk to someone you trust.",
)
