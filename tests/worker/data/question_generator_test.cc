// Generated questions: the same everywhere, unambiguous, and different in the two splits.
#include "worker/data/question_generator.h"

#include <algorithm>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/checksum.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/data/language.h"

namespace kvlink::data {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr Split kSplits[] = {Split::kTune, Split::kTest};

Item Make(const ItemOptions& options, Kind kind, int64_t index) {
  auto item = MakeItem(options, kind, index);
  EXPECT_TRUE(item.ok()) << item.status();
  return *std::move(item);
}

std::string TextOf(const Item& item) {
  std::string text = absl::StrCat(item.id, "\n", item.question, "\n", item.stem, "\n", absl::StrJoin(item.answers, "|"),
                                  "\n", absl::StrJoin(item.candidates, "|"), "\n", absl::StrJoin(item.gold, "|"), "\n");
  for (const Document& document : item.documents) absl::StrAppend(&text, document.title, "\n", document.text, "\n");
  return text;
}

// Items of all kinds and of few and many documents.
std::vector<Item> Sample(Split split, int64_t each) {
  std::vector<Item> items;
  for (const int64_t documents : {2, 3, 5, 8, 32}) {
    for (const Kind kind : AllKinds()) {
      for (int64_t i = 0; i < each; ++i) {
        items.push_back(Make({.split = split, .seed = 7, .documents = documents, .document_tokens = 80}, kind, i));
      }
    }
  }
  return items;
}

std::vector<int64_t> DocumentsWith(const Item& item, absl::string_view text) {
  std::vector<int64_t> found;
  for (size_t i = 0; i < item.documents.size(); ++i) {
    if (absl::StrContains(item.documents[i].text, text)) found.push_back(static_cast<int64_t>(i));
  }
  return found;
}

TEST(QuestionGenerator, ItemsAreTheSameOnEveryMachine) {
  // A change of these values is a change of kGeneratorVersion.
  const std::map<std::string, std::pair<uint64_t, uint64_t>> golden = {
      {"tune", {10233795361620997943u, 5716097193172951557u}}, {"test", {6453585167660076642u, 990916751618233573u}}};
  for (const Split split : kSplits) {
    std::string text, continued;
    for (const Item& item : Sample(split, 3)) (item.kind == Kind::kContinued ? continued : text) += TextOf(item);
    const auto& [of_text, of_continued] = golden.at(std::string(SplitName(split)));
    EXPECT_EQ(Xxh3(text.data(), text.size()), of_text) << SplitName(split);
    EXPECT_EQ(Xxh3(continued.data(), continued.size()), of_continued) << SplitName(split);
  }
}

TEST(QuestionGenerator, ItemsDependOnSeedAndIndexAlone) {
  const ItemOptions options{.seed = 3};
  std::set<std::string> texts;
  for (const Kind kind : AllKinds()) {
    for (const int64_t index : {5, 0, 1 << 30}) {
      const std::string text = TextOf(Make(options, kind, index));
      EXPECT_EQ(TextOf(Make(options, kind, index)), text);
      EXPECT_TRUE(texts.insert(text).second);
      EXPECT_NE(TextOf(Make({.seed = 4}, kind, index)), text);
    }
  }
}

TEST(QuestionGenerator, TheSplitsShareNoNameNoWordingAndNoTemplate) {
  std::set<std::string> words[2], sentences[2], questions[2], wordings[2];
  for (const Split split : kSplits) {
    const size_t k = static_cast<size_t>(split);
    for (const Item& item : Sample(split, 10)) {
      for (const Document& document : item.documents) {
        for (const absl::string_view word : absl::StrSplit(document.title, ' ', absl::SkipEmpty()))
          words[k].emplace(word);
        for (const absl::string_view sentence : absl::StrSplit(document.text, ". ")) sentences[k].emplace(sentence);
      }
      for (const std::string& candidate : item.candidates) {
        if (candidate == kUnknown) continue;
        for (const absl::string_view word : absl::StrSplit(candidate, ' ')) words[k].emplace(word);
      }
      questions[k].insert(item.question);
    }
    const Language& language = LanguageOf(split);
    for (const Relation& relation : language.relations) {
      wordings[k].emplace(relation.phrase);
      wordings[k].insert(relation.statements.begin(), relation.statements.end());
    }
    for (const Quantity& quantity : language.quantities) {
      for (const absl::string_view text : {quantity.statement, quantity.smaller, quantity.larger})
        wordings[k].emplace(text);
    }
    for (const auto& list : {language.questions, language.fillers, language.times, language.adjectives, language.nouns,
                             language.verbs, language.places, language.goods}) {
      wordings[k].insert(list.begin(), list.end());
    }
    for (const absl::string_view text :
         {language.person_opening, language.town_opening, language.company_opening, language.person_again,
          language.town_again, language.company_again, language.comparison}) {
      wordings[k].emplace(text);
    }
  }
  const auto common = [](const std::set<std::string>* sets) {
    std::vector<std::string> both;
    std::set_intersection(sets[0].begin(), sets[0].end(), sets[1].begin(), sets[1].end(), std::back_inserter(both));
    return both;
  };
  EXPECT_THAT(common(words), IsEmpty());
  EXPECT_THAT(common(sentences), IsEmpty());
  EXPECT_THAT(common(questions), IsEmpty());
  EXPECT_THAT(common(wordings), IsEmpty());
}

// Of kinds and of few and many documents, as Sample, with names of letters.
std::vector<Item> OfLetters(int64_t each, int64_t more = 0) {
  std::vector<Item> items;
  for (const int64_t documents : {2, 3, 8, 32}) {
    for (const Kind kind : AllKinds()) {
      for (int64_t i = 0; i < each; ++i) {
        items.push_back(Make({.split = Split::kTune,
                              .seed = 7,
                              .documents = documents,
                              .document_tokens = 80,
                              .more = more,
                              .names = Names::kLetters},
                             kind, i));
      }
    }
  }
  return items;
}

// All that a split's names and goods are made of, as they stand in a text.
std::set<std::string> PartsOf(const Language& language) {
  std::set<std::string> parts;
  for (const absl::string_view good : language.goods) parts.emplace(good);
  for (const NameParts& lists : {language.given, language.surname, language.town, language.company}) {
    std::set<std::string> begun = {""};
    for (const auto& choices : lists) {
      std::set<std::string> longer;
      for (const std::string& name : begun) {
        for (const absl::string_view choice : choices) longer.insert(absl::StrCat(name, choice));
      }
      begun = std::move(longer);
    }
    for (const std::string& name : begun) {
      for (const absl::string_view word : absl::StrSplit(name, ' ')) parts.emplace(word);
    }
  }
  return parts;
}

TEST(QuestionGenerator, NamesOfLettersAreNoNamesOfTheOtherSplit) {
  const std::set<std::string> test = PartsOf(LanguageOf(Split::kTest));
  ASSERT_TRUE(test.contains("Calandra") && test.contains("Railway") && test.contains("pepper"));
  const std::string ends = "bfgjpqvz";
  for (const std::string& part : test) EXPECT_EQ(ends.find(part.back()), std::string::npos) << part;
  std::set<std::string> words;
  Random random(1);
  for (int i = 0; i < 10000; ++i) {
    const std::string word = LetterWord(random);
    EXPECT_NE(ends.find(word.back()), std::string::npos) << word;
    words.insert(word);
  }
  EXPECT_GT(words.size(), 9500u);
  for (const Item& item : OfLetters(5)) {
    for (const std::string& candidate : item.candidates) {
      if (candidate == kUnknown) continue;
      for (const absl::string_view word : absl::StrSplit(candidate, ' ')) {
        EXPECT_FALSE(test.contains(std::string(word))) << word;
      }
    }
  }
  EXPECT_THAT(std::string(MakeItem({.names = Names::kLetters}, Kind::kLookup, 0).status().message()),
              HasSubstr("of the split tune"));
}

// Nothing that the split writes around names has such a word in it, whatever is drawn.
TEST(QuestionGenerator, WordsOfLettersStandInNamesOnly) {
  const Language& language = LanguageOf(Split::kTune);
  std::vector<absl::string_view> texts = {language.comparison,      language.person_opening, language.town_opening,
                                          language.company_opening, language.person_again,   language.town_again,
                                          language.company_again};
  for (const Relation& relation : language.relations) {
    texts.push_back(relation.phrase);
    texts.insert(texts.end(), relation.statements.begin(), relation.statements.end());
  }
  for (const Quantity& quantity : language.quantities) {
    texts.insert(texts.end(), {quantity.statement, quantity.smaller, quantity.larger});
  }
  for (const auto& list : {language.questions, language.fillers, language.times, language.adjectives, language.nouns,
                           language.verbs, language.places}) {
    texts.insert(texts.end(), list.begin(), list.end());
  }
  const std::regex placeholder("\\{[A-Za-z]+\\}");
  const std::regex word("([bcdfghjklmnpqrstvwxyz]{1,2}[aeiou]){2,3}[bfgjpqvz]");
  for (const absl::string_view text : texts) {
    const std::string plain = std::regex_replace(absl::AsciiStrToLower(text), placeholder, "-");
    EXPECT_FALSE(std::regex_search(plain, word)) << text;
  }
  Random random(2);
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(std::regex_match(LetterWord(random), word));
}

TEST(QuestionGenerator, QuestionsAboutNamesOfLettersAreUnambiguous) {
  for (const Item& item : OfLetters(10, kMaxMore)) {
    SCOPED_TRACE(TextOf(item));
    for (const std::string& answer : item.answers) {
      const std::vector<int64_t> found = DocumentsWith(item, answer);
      EXPECT_EQ(found.empty(), item.kind == Kind::kUnanswerable);
      for (const int64_t i : found) EXPECT_TRUE(std::binary_search(item.gold.begin(), item.gold.end(), i));
    }
    for (size_t i = 1; i < item.candidates.size(); ++i) {
      EXPECT_FALSE(DocumentsWith(item, item.candidates[i]).empty()) << item.candidates[i];
      EXPECT_FALSE(absl::StrContains(absl::AsciiStrToLower(item.candidates[i]), absl::AsciiStrToLower(item.answers[0])))
          << "whoever says it says the answer as well";
    }
    for (const Question::More& more : item.more) EXPECT_FALSE(DocumentsWith(item, more.answer).empty()) << more.answer;
    if (item.kind == Kind::kContinued) {
      EXPECT_FALSE(absl::StrContains(item.documents[item.gold[1]].text, item.documents[item.gold[0]].title));
    }
  }
  // A function of the options, as others are.
  const ItemOptions letters{.split = Split::kTune, .seed = 3, .names = Names::kLetters};
  EXPECT_EQ(Make(letters, Kind::kLookup, 1).documents.size(), static_cast<size_t>(letters.documents));
  EXPECT_EQ(TextOf(Make(letters, Kind::kLookup, 1)), TextOf(Make(letters, Kind::kLookup, 1)));
  EXPECT_NE(TextOf(Make(letters, Kind::kLookup, 1)), TextOf(Make(letters, Kind::kLookup, 2)));
}

TEST(QuestionGenerator, CandidatesAreTheAnswerAndOthersOfTheDocuments) {
  for (const Split split : kSplits) {
    for (const Item& item : Sample(split, 10)) {
      SCOPED_TRACE(TextOf(item));
      ASSERT_FALSE(item.answers.empty());
      ASSERT_GE(item.candidates.size(), 2u);
      EXPECT_EQ(item.candidates[0], item.answers[0]);
      EXPECT_EQ(std::set<std::string>(item.candidates.begin(), item.candidates.end()).size(), item.candidates.size());
      for (size_t i = 1; i < item.candidates.size(); ++i) {
        EXPECT_FALSE(DocumentsWith(item, item.candidates[i]).empty()) << item.candidates[i];
        if (item.kind != Kind::kCompare) {
          EXPECT_FALSE(absl::StrContains(item.question, item.candidates[i]));
        }
      }
    }
  }
}

TEST(QuestionGenerator, AnswersStandInGoldDocumentsOnly) {
  for (const Split split : kSplits) {
    for (const Item& item : Sample(split, 10)) {
      SCOPED_TRACE(TextOf(item));
      ASSERT_FALSE(item.gold.empty());
      EXPECT_TRUE(std::is_sorted(item.gold.begin(), item.gold.end()));
      for (const std::string& answer : item.answers) {
        const std::vector<int64_t> found = DocumentsWith(item, answer);
        EXPECT_EQ(found.empty(), item.kind == Kind::kUnanswerable);
        for (const int64_t i : found) EXPECT_TRUE(std::binary_search(item.gold.begin(), item.gold.end(), i));
      }
    }
  }
}

// Whether a document states a relation of a subject, whatever the object.
bool States(const std::string& text, const Relation& relation, const std::string& subject) {
  std::vector<std::string> statements(relation.statements.begin(), relation.statements.end());
  statements.push_back(absl::StrCat(relation.phrase.substr(1), " is {o}."));  // its first letter may be a capital
  return std::any_of(statements.begin(), statements.end(), [&](absl::string_view statement) {
    const std::string sentence = absl::StrReplaceAll(statement, {{"{s}", subject}});
    const std::pair<std::string, std::string> parts = absl::StrSplit(sentence, "{o}");
    return absl::StrContains(text, parts.first) && absl::StrContains(text, parts.second);
  });
}

TEST(QuestionGenerator, NobodySaysWhatAnUnanswerableQuestionAsks) {
  for (const Split split : kSplits) {
    for (const Kind kind : {Kind::kUnanswerable, Kind::kLookup}) {
      for (int64_t i = 0; i < 50; ++i) {
        const Item item = Make({.split = split, .document_tokens = 80}, kind, i);
        SCOPED_TRACE(TextOf(item));
        const std::string& subject = item.documents[item.gold[0]].title;
        int asked = 0;
        for (const Relation& relation : LanguageOf(split).relations) {
          if (!absl::StrContains(item.question, absl::StrReplaceAll(relation.phrase, {{"{s}", subject}}))) continue;
          ++asked;
          for (const Document& document : item.documents) {
            const bool states = States(document.text, relation, subject);
            EXPECT_EQ(states, kind == Kind::kLookup && document.title == subject) << document.text;
          }
        }
        EXPECT_EQ(asked, 1);
      }
    }
  }
}

TEST(QuestionGenerator, EveryGoldDocumentOfAChainIsNeeded) {
  std::set<size_t> lengths;
  for (const Split split : kSplits) {
    for (const Item& item : Sample(split, 20)) {
      if (item.kind != Kind::kHopsAcross && item.kind != Kind::kChain) continue;
      SCOPED_TRACE(TextOf(item));
      lengths.insert(item.gold.size());
      if (item.kind == Kind::kHopsAcross) {
        EXPECT_EQ(item.gold.size(), 2u);
      }
      // Follow the titles from the one that the question names: each is told by the document before alone.
      std::set<int64_t> left(item.gold.begin(), item.gold.end());
      int64_t at = -1;
      for (const int64_t i : item.gold) {
        if (!absl::StrContains(item.question, item.documents[i].title)) continue;
        EXPECT_EQ(at, -1) << "the question names two";
        at = i;
      }
      ASSERT_NE(at, -1);
      EXPECT_EQ(DocumentsWith(item, item.documents[at].title), std::vector<int64_t>{at});
      left.erase(at);
      while (!left.empty()) {
        const auto next = std::find_if(left.begin(), left.end(), [&](int64_t i) {
          return absl::StrContains(item.documents[at].text, item.documents[i].title);
        });
        ASSERT_NE(next, left.end());
        EXPECT_EQ(DocumentsWith(item, item.documents[*next].title),
                  (std::vector<int64_t>{std::min(at, *next), std::max(at, *next)}));
        at = *next;
        left.erase(next);
      }
      EXPECT_EQ(DocumentsWith(item, item.answers[0]), std::vector<int64_t>{at}) << "the last document answers";
    }
  }
  EXPECT_EQ(lengths, (std::set<size_t>{2, 3, 4}));
}

TEST(QuestionGenerator, BothHopsInsideAreOfOneDocument) {
  for (const Split split : kSplits) {
    for (int64_t i = 0; i < 20; ++i) {
      const Item item = Make({.split = split}, Kind::kHopsInside, i);
      SCOPED_TRACE(TextOf(item));
      ASSERT_EQ(item.gold.size(), 1u);
      EXPECT_THAT(item.question, HasSubstr(item.documents[item.gold[0]].title));
      EXPECT_EQ(DocumentsWith(item, item.answers[0]), item.gold);
    }
  }
}

TEST(QuestionGenerator, DistractorsShareNames) {
  for (const Split split : kSplits) {
    for (int64_t i = 0; i < 20; ++i) {
      const Item item = Make({.split = split}, Kind::kDistractors, i);
      SCOPED_TRACE(TextOf(item));
      const std::vector<std::string> meant = absl::StrSplit(item.documents[item.gold[0]].title, ' ');
      int given = 0, surname = 0;
      for (const Document& document : item.documents) {
        const std::vector<std::string> name = absl::StrSplit(document.title, ' ');
        given += name[0] == meant[0];
        surname += name[1] == meant[1];
        EXPECT_TRUE(name[0] == meant[0] || name[1] == meant[1]);
      }
      EXPECT_GE(given, 2);
      EXPECT_GE(surname, 2);
    }
  }
}

TEST(QuestionGenerator, WhatIsContinuedNamesNobody) {
  for (const Split split : kSplits) {
    for (const int64_t documents : {2, 5, 8}) {
      for (int64_t i = 0; i < 20; ++i) {
        const Item item = Make({.split = split, .documents = documents}, Kind::kContinued, i);
        SCOPED_TRACE(TextOf(item));
        ASSERT_EQ(static_cast<int64_t>(item.documents.size()), documents);
        ASSERT_EQ(item.gold.size(), 2u);
        EXPECT_EQ(item.gold[1], item.gold[0] + 1);
        const Document& first = item.documents[item.gold[0]];
        const Document& second = item.documents[item.gold[1]];
        EXPECT_THAT(item.stem, EndsWith(first.title + " is"));
        EXPECT_EQ(second.title, "");
        EXPECT_FALSE(absl::StrContains(second.text, first.title));
        EXPECT_THAT(second.text, HasSubstr(item.answers.front()));
        EXPECT_FALSE(absl::StrContains(first.text, item.answers.front()));
      }
    }
  }
}

TEST(QuestionGenerator, ComparisonsAreRight) {
  const auto number_in = [](const std::string& text) {
    const size_t begin = text.find_first_of("0123456789");
    EXPECT_NE(begin, std::string::npos) << text;
    return begin == std::string::npos ? 0 : std::stoll(text.substr(begin));
  };
  int larger_asked = 0, smaller_asked = 0, first_named = 0;
  for (const Split split : kSplits) {
    for (int64_t i = 0; i < 50; ++i) {
      const Item item = Make({.split = split}, Kind::kCompare, i);
      SCOPED_TRACE(TextOf(item));
      ASSERT_EQ(item.gold.size(), 2u);
      ASSERT_EQ(item.candidates.size(), 2u);
      const Document &a = item.documents[item.gold[0]], &b = item.documents[item.gold[1]];
      const std::string& larger = number_in(a.text) > number_in(b.text) ? a.title : b.title;
      const std::string& smaller = number_in(a.text) > number_in(b.text) ? b.title : a.title;
      int asked = 0;
      for (const Quantity& quantity : LanguageOf(split).quantities) {
        for (const bool turned : {false, true}) {
          const auto asks = [&](absl::string_view which) {
            return item.question ==
                   absl::StrReplaceAll(
                       LanguageOf(split).comparison,
                       {{"{a}", turned ? b.title : a.title}, {"{b}", turned ? a.title : b.title}, {"{c}", which}});
          };
          if (asks(quantity.larger)) {
            EXPECT_EQ(item.answers[0], larger);
            EXPECT_EQ(item.stem, absl::StrCat("The one that ", quantity.larger, " is"));
          }
          if (asks(quantity.smaller)) {
            EXPECT_EQ(item.answers[0], smaller);
            EXPECT_EQ(item.stem, absl::StrCat("The one that ", quantity.smaller, " is"));
          }
          larger_asked += asks(quantity.larger);
          smaller_asked += asks(quantity.smaller);
          asked += asks(quantity.larger) + asks(quantity.smaller);
        }
      }
      EXPECT_EQ(asked, 1);
      first_named += item.question.find(item.candidates[0]) < item.question.find(item.candidates[1]);
    }
  }
  EXPECT_GT(larger_asked, 20);
  EXPECT_GT(smaller_asked, 20);
  EXPECT_GT(first_named, 20);
  EXPECT_LT(first_named, 80);
}

TEST(QuestionGenerator, DocumentsHaveAboutTheLengthAskedFor) {
  for (const int64_t tokens : {100, 400, 4000}) {
    for (const Kind kind : AllKinds()) {
      for (const Document& document : Make({.document_tokens = tokens}, kind, 0).documents) {
        const int64_t words = std::count(document.text.begin(), document.text.end(), ' ') + 1;
        EXPECT_GE(words, tokens * 3 / 4);
        EXPECT_LE(words, tokens * 3 / 4 + 15);
      }
    }
  }
}

TEST(QuestionGenerator, FurtherQuestionsAskWhatTheDocumentsSay) {
  int64_t hops = 0;
  for (const Split split : kSplits) {
    for (const Kind kind : AllKinds()) {
      for (int64_t i = 0; i < 20; ++i) {
        ItemOptions options{.split = split, .documents = 4};
        const std::string alone = TextOf(Make(options, kind, i));
        options.more = kMaxMore;
        const Item item = Make(options, kind, i);
        SCOPED_TRACE(alone);
        EXPECT_EQ(TextOf(item), alone);
        std::set<std::string> stems = {item.stem};
        EXPECT_GE(item.more.size(), 3u);
        // A sentence for each hop, the last of which ends in the answer.
        if (item.kind == Kind::kCompare || item.kind == Kind::kUnanswerable) {
          EXPECT_EQ(item.steps, "");
        } else {
          const auto hops = std::count(item.steps.begin(), item.steps.end(), '.');
          EXPECT_EQ(hops, item.kind == Kind::kChain                                          ? item.gold.size()
                          : item.kind == Kind::kHopsInside || item.kind == Kind::kHopsAcross ? 2
                                                                                             : 1);
          EXPECT_THAT(item.steps, EndsWith(" is " + item.answers.front() + "."));
        }
        for (const Question::More& more : item.more) {
          EXPECT_THAT(more.steps, EndsWith(" is " + more.answer + "."));
          EXPECT_TRUE(stems.insert(more.stem).second) << more.stem;
          EXPECT_FALSE(DocumentsWith(item, more.answer).empty()) << more.answer;
          // Where a document says it in these words, it gives this answer.
          for (const int64_t document : DocumentsWith(item, more.stem)) {
            EXPECT_THAT(item.documents[static_cast<size_t>(document)].text, HasSubstr(more.stem + " " + more.answer));
          }
          hops += DocumentsWith(item, more.stem).empty() && absl::StrContains(more.stem, " of the ");
        }
        options.more = 2;
        EXPECT_EQ(Make(options, kind, i).more.size(), 2u);
      }
    }
  }
  EXPECT_GT(hops, 100);
}

TEST(QuestionGenerator, BadOptionsAreRefused) {
  const std::pair<ItemOptions, const char*> cases[] = {
      {{.documents = 1}, "1 documents"},
      {{.documents = 33}, "33 documents"},
      {{.document_tokens = 49}, "49 tokens per document"},
      {{.document_tokens = 8001}, "8001 tokens per document"},
      {{.more = 65}, "65 further questions"},
  };
  for (const auto& [options, message] : cases) {
    const absl::Status status = MakeItem(options, Kind::kLookup, 0).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
  EXPECT_EQ(MakeItem({}, Kind::kLookup, -1).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(*ParseKind("hops-across"), Kind::kHopsAcross);
  EXPECT_THAT(std::string(ParseKind("hop").status().message()), HasSubstr("lookup, hops-inside"));
}

}  // namespace
}  // namespace kvlink::data
