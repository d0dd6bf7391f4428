// A writer draws fresh names for one item and puts facts into drafts of documents, which are padded with filler and
// shuffled at the end. A name is used for one entity only, and a subject has one object of a relation, so that the
// question is unambiguous. Each random number is drawn in a statement of its own: the order in which a compiler
// evaluates arguments must not matter.
#include "worker/data/question_generator.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "worker/data/language.h"
#include "worker/data/random.h"

namespace kvlink::data {
namespace {

constexpr Kind kKinds[] = {Kind::kLookup,  Kind::kHopsInside,   Kind::kHopsAcross,  Kind::kChain,
                           Kind::kCompare, Kind::kUnanswerable, Kind::kDistractors, Kind::kContinued};
constexpr size_t kMaxHops = 4;
constexpr size_t kMaxMoreHops = 2;  // of further questions
constexpr size_t kMaxWrong = 7;     // candidates
constexpr absl::string_view kRefusals[] = {"not mentioned",   "not stated", "not specified", "not provided",
                                           "not given",       "not known",  "not say",       "no information",
                                           "not mention any", "not clear",  "no mention"};

int64_t Words(absl::string_view text) { return std::count(text.begin(), text.end(), ' ') + 1; }

std::string Capitalised(absl::string_view text) {
  std::string capitalised(text);
  capitalised[0] = absl::ascii_toupper(static_cast<unsigned char>(capitalised[0]));
  return capitalised;
}

struct Draft {
  std::string subject;
  Type type = Type::kPerson;
  std::vector<std::string> facts;
  std::vector<std::string> continued;  // facts of a second document
  bool gold = false;
};

class Writer {
 public:
  Writer(const ItemOptions& options, Kind kind, uint64_t seed)
      : options_(options), language_(LanguageOf(options.split)), random_(seed) {
    item_.kind = kind;
    item_.split = options.split;
  }

  Item Write() {
    switch (item_.kind) {
      case Kind::kLookup:
      case Kind::kUnanswerable:
        Lookup();
        break;
      case Kind::kHopsInside:
        HopsInside();
        break;
      case Kind::kHopsAcross:
        Chains(2);
        break;
      case Kind::kChain:
        Chains(2 + random_.Below(std::min<size_t>(kMaxHops, options_.documents) - 1));
        break;
      case Kind::kCompare:
        Compare();
        break;
      case Kind::kDistractors:
        Distractors();
        break;
      case Kind::kContinued:
        Continued();
        break;
    }
    PlaceDocuments();
    AskMore();
    return std::move(item_);
  }

 private:
  bool letters() const { return options_.names == Names::kLetters; }
  std::string Assemble(const NameParts& parts) {
    if (letters()) return Capitalised(LetterWord(random_));
    std::string name;
    for (const auto& choices : parts) absl::StrAppend(&name, random_.Pick(choices));
    return name;
  }
  std::string PersonOf(const std::string& given, const std::string& surname) {
    return absl::StrCat(given, " ", surname);
  }
  std::string Draw(Type type) {
    switch (type) {
      case Type::kPerson: {
        const std::string given = Assemble(language_.given);
        return PersonOf(given, Assemble(language_.surname));
      }
      case Type::kTown:
        return Assemble(language_.town);
      case Type::kCompany: {
        const std::string name = Assemble(language_.company);
        return letters() ? absl::StrCat(name, " ", Assemble(language_.company)) : name;
      }
      case Type::kGood:
        break;
    }
    return letters() ? LetterWord(random_) : std::string(random_.Pick(language_.goods));
  }
  // False: the item has the name; or, of letters, one that it is a part of or that is a part of it.
  bool Take(const std::string& name) {
    if (!letters()) return used_.insert(name).second;
    const std::string lower = absl::AsciiStrToLower(name);
    const auto meets = [&lower](const std::string& other) {
      return absl::StrContains(other, lower) || absl::StrContains(lower, other);
    };
    return std::none_of(used_.begin(), used_.end(), meets) && used_.insert(lower).second;
  }
  // A name that this item does not have yet. The limits of the options leave several times as many as are needed.
  std::string Fresh(Type type) {
    std::string name = Draw(type);
    while (!Take(name)) name = Draw(type);
    named_.push_back({type, name});
    return name;
  }
  bool EnoughGoods() const { return static_cast<size_t>(options_.documents) <= language_.goods.size(); }

  // A relation for which `wanted` holds. REQUIRES: there is one.
  template <typename Predicate>
  const Relation& Choose(const Predicate& wanted) {
    std::vector<const Relation*> fitting;
    for (const Relation& relation : language_.relations) {
      if (wanted(relation)) fitting.push_back(&relation);
    }
    return *random_.Pick(fitting);
  }
  void State(Draft& draft, const Relation& relation, const std::string& subject, const std::string& object) {
    draft.facts.push_back(Statement(relation, subject, object));
    facts_.push_back({&relation, subject, object});
  }
  std::string Statement(const Relation& relation, absl::string_view subject, const std::string& object) {
    // In the words of the question as often as in others.
    const bool plain = random_.Below(2) == 0;
    const std::string statement =
        plain ? absl::StrCat(Capitalised(relation.phrase), " is {o}.") : std::string(random_.Pick(relation.statements));
    return Capitalised(absl::StrReplaceAll(statement, {{"{s}", subject}, {"{o}", object}}));
  }
  // A relation of the document's subject other than `asked`, if any is.
  void StateOther(Draft& draft, const Relation* asked) {
    const Relation& other = Choose([&](const Relation& relation) {
      return relation.subject == draft.type && &relation != asked && relation.object != Type::kGood;
    });
    State(draft, other, draft.subject, Fresh(other.object));
  }
  // Of a subject without a document, so that there is a wrong answer.
  void StateWrong(const Relation& relation) {
    const std::string subject = Fresh(relation.subject);
    State(drafts_.back(), relation, subject, Fresh(relation.object));
  }
  Draft& Begin(Type type, std::string subject) {
    drafts_.push_back({std::move(subject), type, {}, {}, false});
    return drafts_.back();
  }

  std::string QuestionFor(const std::string& phrase, Type answer_type) {
    const bool person = answer_type == Type::kPerson;
    return absl::StrReplaceAll(
        random_.Pick(language_.questions),
        {{"{Who}", person ? "Who" : "What"}, {"{who}", person ? "who" : "what"}, {"{p}", phrase}});
  }
  std::string StemFor(const std::string& phrase) const { return absl::StrCat(Capitalised(phrase), " is"); }

  void Ask(const std::string& phrase, Type answer_type, const std::string& answer) {
    item_.question = QuestionFor(phrase, answer_type);
    item_.stem = StemFor(phrase);
    item_.answers = {answer};
    std::vector<std::string> wrong;
    for (const auto& [type, name] : named_) {
      if (type == answer_type && name != answer && !absl::StrContains(item_.question, name)) wrong.push_back(name);
    }
    random_.Shuffle(wrong);
    wrong.resize(std::min(wrong.size(), kMaxWrong));
    item_.candidates = {answer};
    item_.candidates.insert(item_.candidates.end(), wrong.begin(), wrong.end());
  }
  std::string Phrase(const Relation& relation, const std::string& subject) const {
    return absl::StrReplaceAll(relation.phrase, {{"{s}", subject}});
  }

  void Lookup() {
    const Relation& asked = Choose([&](const Relation& r) { return r.object != Type::kGood || EnoughGoods(); });
    std::string answer;
    for (int64_t i = 0; i < options_.documents; ++i) {
      Draft& draft = Begin(asked.subject, Fresh(asked.subject));
      StateOther(draft, &asked);
      draft.gold = i == 0;
      if (draft.gold && item_.kind == Kind::kUnanswerable) {
        answer = std::string(kUnknown);
        continue;
      }
      const std::string object = Fresh(asked.object);
      State(draft, asked, draft.subject, object);
      if (draft.gold) answer = object;
    }
    Ask(Phrase(asked, drafts_[0].subject), asked.object, answer);
    if (item_.kind == Kind::kUnanswerable) item_.answers = UnknownAnswers();
  }

  void Distractors() {
    const Relation& asked = Choose(
        [&](const Relation& r) { return r.subject == Type::kPerson && (r.object != Type::kGood || EnoughGoods()); });
    const std::string given = Assemble(language_.given);
    const std::string surname = Assemble(language_.surname);
    std::string answer;
    for (int64_t i = 0; i < options_.documents; ++i) {
      std::string name = PersonOf(given, surname);
      while (!Take(name)) {
        name = i % 2 == 0 ? PersonOf(Assemble(language_.given), surname) : PersonOf(given, Assemble(language_.surname));
      }
      named_.push_back({Type::kPerson, name});
      Draft& draft = Begin(Type::kPerson, name);
      draft.gold = i == 0;
      StateOther(draft, &asked);
      const std::string object = Fresh(asked.object);
      State(draft, asked, name, object);
      if (draft.gold) answer = object;
    }
    Ask(Phrase(asked, drafts_[0].subject), asked.object, answer);
  }

  // Of two documents about a subject only the first names it.
  void Continued() {
    const Relation& asked = Choose([&](const Relation& r) { return r.object != Type::kGood || EnoughGoods(); });
    for (int64_t i = 0; i + 1 < options_.documents; i += 2) {
      Draft& draft = Begin(asked.subject, Fresh(asked.subject));
      draft.gold = i == 0;
      StateOther(draft, &asked);
      const std::string object = Fresh(asked.object);
      draft.continued.push_back(Statement(asked, Again(asked.subject), object));
      facts_.push_back({&asked, draft.subject, object});
    }
    if (drafts_.size() == 1) StateWrong(asked);
    if (options_.documents % 2 != 0) StateOther(Begin(asked.subject, Fresh(asked.subject)), &asked);
    Ask(Phrase(asked, drafts_[0].subject), asked.object, facts_[1].object);
  }

  // Distinct relations, each beginning where the one before ends; only the last may end in a good.
  std::vector<const Relation*> Path(size_t hops) {
    constexpr Type kStarts[] = {Type::kPerson, Type::kTown, Type::kCompany};
    std::vector<const Relation*> path;
    Type at = random_.Pick(kStarts);
    while (path.size() < hops) {
      const bool last = path.size() + 1 == hops;
      path.push_back(&Choose([&](const Relation& relation) {
        return relation.subject == at && std::find(path.begin(), path.end(), &relation) == path.end() &&
               (relation.object != Type::kGood || (last && EnoughGoods()));
      }));
      at = path.back()->object;
    }
    return path;
  }
  std::string PhraseOf(const std::vector<const Relation*>& path, std::string phrase) const {
    for (const Relation* relation : path) phrase = Phrase(*relation, phrase);
    return phrase;
  }

  void HopsInside() {
    const std::vector<const Relation*> path = Path(2);
    std::string answer;
    for (int64_t i = 0; i < options_.documents; ++i) {
      Draft& draft = Begin(path[0]->subject, Fresh(path[0]->subject));
      draft.gold = i == 0;
      const std::string bridge = Fresh(path[0]->object);
      const std::string end = Fresh(path[1]->object);
      State(draft, *path[0], draft.subject, bridge);
      State(draft, *path[1], bridge, end);
      if (draft.gold) answer = end;
    }
    Ask(PhraseOf(path, drafts_[0].subject), path[1]->object, answer);
  }

  // The first chain is asked about; the others are of the same relations, the last perhaps cut short.
  void Chains(size_t hops) {
    const std::vector<const Relation*> path = Path(hops);
    std::string answer, entity;
    for (int64_t i = 0; i < options_.documents; ++i) {
      const size_t hop = static_cast<size_t>(i) % hops;
      if (hop == 0) entity = Fresh(path[0]->subject);
      Draft& draft = Begin(path[hop]->subject, entity);
      draft.gold = static_cast<size_t>(i) < hops;
      entity = Fresh(path[hop]->object);
      State(draft, *path[hop], draft.subject, entity);
      StateOther(draft, path[hop]);
      if (draft.gold) answer = entity;
    }
    if (options_.documents < static_cast<int64_t>(2 * hops)) {
      // No other chain is complete: mention the end of one.
      StateWrong(*path.back());
    }
    Ask(PhraseOf(path, drafts_[0].subject), path.back()->object, answer);
  }

  void Compare() {
    const Quantity& quantity = random_.Pick(language_.quantities);
    std::set<int64_t> taken;
    std::vector<int64_t> numbers;
    for (int64_t i = 0; i < options_.documents; ++i) {
      Draft& draft = Begin(quantity.subject, Fresh(quantity.subject));
      draft.gold = i < 2;
      int64_t number = 0;
      do {
        number = quantity.min + static_cast<int64_t>(random_.Below(quantity.max - quantity.min + 1));
      } while (!taken.insert(number).second);
      numbers.push_back(number);
      draft.facts.push_back(
          absl::StrReplaceAll(quantity.statement, {{"{s}", draft.subject}, {"{n}", absl::StrCat(number)}}));
      StateOther(draft, nullptr);
    }
    const bool larger = random_.Below(2) == 1;
    const absl::string_view asked = larger ? quantity.larger : quantity.smaller;
    item_.question = absl::StrReplaceAll(language_.comparison,
                                         {{"{a}", drafts_[0].subject}, {"{b}", drafts_[1].subject}, {"{c}", asked}});
    item_.stem = absl::StrCat("The one that ", asked, " is");
    const bool first = (numbers[0] > numbers[1]) == larger;
    item_.answers = {drafts_[first ? 0 : 1].subject};
    item_.candidates = {drafts_[first ? 0 : 1].subject, drafts_[first ? 1 : 0].subject};
  }

  absl::string_view Opening(Type type) const {
    return type == Type::kPerson ? language_.person_opening
           : type == Type::kTown ? language_.town_opening
                                 : language_.company_opening;
  }
  std::string Filler() {
    const absl::string_view pattern = random_.Pick(language_.fillers);
    const absl::string_view time = random_.Pick(language_.times), adjective = random_.Pick(language_.adjectives);
    const absl::string_view noun = random_.Pick(language_.nouns), verb = random_.Pick(language_.verbs);
    const absl::string_view place = random_.Pick(language_.places);
    return absl::StrReplaceAll(
        pattern,
        {{"{time}", time}, {"{adjective}", adjective}, {"{noun}", noun}, {"{verb}", verb}, {"{place}", place}});
  }
  absl::string_view Again(Type type) const {
    return type == Type::kPerson ? language_.person_again
           : type == Type::kTown ? language_.town_again
                                 : language_.company_again;
  }
  Document Written(Draft& draft) {
    const std::string opening = absl::StrReplaceAll(Opening(draft.type), {{"{s}", draft.subject}});
    return {draft.subject, absl::StrCat(opening, " ", Padded(std::move(draft.facts), Words(opening)))};
  }
  // With filler, after `words` other words.
  std::string Padded(std::vector<std::string> sentences, int64_t words) {
    for (const std::string& sentence : sentences) words += Words(sentence);
    while (words < options_.document_tokens * 3 / 4) {
      sentences.push_back(Filler());
      words += Words(sentences.back());
    }
    random_.Shuffle(sentences);
    return absl::StrJoin(sentences, " ");
  }
  void PlaceDocuments() {
    random_.Shuffle(drafts_);
    for (Draft& draft : drafts_) {
      if (draft.gold) item_.gold.push_back(static_cast<int64_t>(item_.documents.size()));
      item_.documents.push_back(Written(draft));
      if (draft.continued.empty()) continue;
      if (draft.gold) item_.gold.push_back(static_cast<int64_t>(item_.documents.size()));
      item_.documents.push_back({"", Padded(std::move(draft.continued), 0)});
    }
  }

  struct Fact {
    const Relation* relation = nullptr;
    std::string subject, object;
  };
  // Facts of which each is about the object of the one before: what may be asked, and how the answer is found.
  struct Route {
    std::string phrase, steps;
    size_t hops = 0;
    const Fact* last = nullptr;
  };
  void AddRoutes(const Route& route, std::vector<Route>* routes) const {
    routes->push_back(route);
    if (route.hops == kMaxHops) return;
    for (const Fact& next : facts_) {
      if (next.subject != route.last->object) continue;
      AddRoutes(
          {Phrase(*next.relation, route.phrase), absl::StrCat(route.steps, " ", Sentence(next)), route.hops + 1, &next},
          routes);
    }
  }
  std::string Sentence(const Fact& fact) const {
    return absl::StrCat(StemFor(Phrase(*fact.relation, fact.subject)), " ", fact.object, ".");
  }
  // REQUIRES: nothing random follows, so that the item itself does not depend on how much is asked.
  void AskMore() {
    std::vector<Route> routes;
    for (const Fact& fact : facts_) {
      AddRoutes({Phrase(*fact.relation, fact.subject), Sentence(fact), 1, &fact}, &routes);
    }
    random_.Shuffle(routes);
    for (Route& route : routes) {
      std::string stem = StemFor(route.phrase);
      if (stem == item_.stem) {
        item_.steps = std::move(route.steps);
      } else if (route.hops <= kMaxMoreHops && static_cast<int64_t>(item_.more.size()) < options_.more) {
        item_.more.push_back({QuestionFor(route.phrase, route.last->relation->object), std::move(stem),
                              route.last->object, std::move(route.steps)});
      }
    }
  }

  const ItemOptions& options_;
  const Language& language_;
  Random random_;
  Item item_;
  std::vector<Draft> drafts_;  // the one that the question begins with is first
  std::set<std::string> used_;
  std::vector<std::pair<Type, std::string>> named_;
  std::vector<Fact> facts_;
};

absl::Status CheckRange(absl::string_view what, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("question generator: ", value, " ", what, "; ", min, " to ", max, " are possible"));
}

}  // namespace

absl::string_view SplitName(Split split) { return split == Split::kTune ? "tune" : "test"; }

absl::Span<const Kind> AllKinds() { return kKinds; }

absl::string_view KindName(Kind kind) {
  switch (kind) {
    case Kind::kLookup:
      return "lookup";
    case Kind::kHopsInside:
      return "hops-inside";
    case Kind::kHopsAcross:
      return "hops-across";
    case Kind::kChain:
      return "chain";
    case Kind::kCompare:
      return "compare";
    case Kind::kUnanswerable:
      return "unanswerable";
    case Kind::kDistractors:
      return "distractors";
    case Kind::kContinued:
      return "continued";
  }
  return "";
}

absl::StatusOr<Kind> ParseKind(absl::string_view name) {
  for (Kind kind : kKinds) {
    if (name == KindName(kind)) return kind;
  }
  const auto append = [](std::string* out, Kind kind) { absl::StrAppend(out, KindName(kind)); };
  return absl::InvalidArgumentError(
      absl::StrCat("unknown kind of question '", name, "'; use ", absl::StrJoin(kKinds, ", ", append)));
}

std::vector<std::string> UnknownAnswers() {
  std::vector<std::string> answers = {std::string(kUnknown)};
  for (const absl::string_view refusal : kRefusals) answers.emplace_back(refusal);
  return answers;
}

absl::StatusOr<Item> MakeItem(const ItemOptions& options, Kind kind, int64_t index) {
  for (const absl::Status& status :
       {CheckRange("documents", options.documents, kMinDocuments, kMaxDocuments),
        CheckRange("tokens per document", options.document_tokens, kMinDocumentTokens, kMaxDocumentTokens),
        CheckRange("further questions", options.more, 0, kMaxMore), CheckRange("as the index", index, 0, INT64_MAX)}) {
    if (!status.ok()) return status;
  }
  if (options.names == Names::kLetters && options.split != Split::kTune) {
    return absl::InvalidArgumentError("question generator: names of letters are of the split tune");
  }
  uint64_t seed = options.seed;
  for (const uint64_t part :
       {static_cast<uint64_t>(options.split), static_cast<uint64_t>(kind), static_cast<uint64_t>(index)}) {
    seed = Random(seed ^ (part + 1) * 0xd1342543de82ef95).Next();
  }
  Item item = Writer(options, kind, seed).Write();
  item.id = absl::StrCat(KindName(kind), "-", index);
  return item;
}

}  // namespace kvlink::data
