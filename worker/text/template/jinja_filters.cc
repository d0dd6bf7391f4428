// Filters and tests of the template interpreter: those that published chat templates use, and Jinja's others for the
// same values. All others are UNIMPLEMENTED, by name.
#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "worker/text/template/jinja_evaluator.h"

namespace kvlink::model::jinja {
namespace {

// Whether there is a cased character and all cased characters are of the given case.
bool AllCase(const Text& text, bool upper) {
  bool any = false;
  for (const char32_t c : text) {
    if (!IsCased(c)) continue;
    any = true;
    if ((upper ? UpperChar(c) : LowerChar(c)) != c) return false;
  }
  return any;
}

Arguments Tail(const Arguments& arguments, size_t from) {
  Arguments tail;
  tail.line = arguments.line;
  tail.named = arguments.named;
  for (size_t i = from; i < arguments.values.size(); ++i) tail.values.push_back(arguments.values[i]);
  return tail;
}

}  // namespace

Evaluator::Result Evaluator::Filter(const std::string& name, const Value& input, const Arguments& arguments) {
  bool known = true;
  Result result = StringFilter(name, input, arguments, known);
  if (known) return result;
  result = ListFilter(name, input, arguments, known = true);
  if (known) return result;
  result = NumberFilter(name, input, arguments, known = true);
  if (known) return result;
  return Unimplemented(arguments.line, absl::StrCat("the filter \"", name, "\""));
}

Evaluator::Result Evaluator::StringFilter(const std::string& name, const Value& input, const Arguments& arguments,
                                          bool& known) {
  const int line = arguments.line;
  const auto text = [&] { return input.string() != nullptr ? *input.string() : ToText(input, budget_); };
  if (name == "string" || name == "safe") return input.string() != nullptr ? Result(input) : NewText(text(), line);
  if (name == "upper") return NewText(Upper(text()), line);
  if (name == "lower") return NewText(Lower(text()), line);
  if (name == "capitalize") return NewText(Capitalize(text()), line);
  if (name == "trim") return CallStringMethod(text(), "strip", arguments);
  if (name == "replace") {
    KVLINK_ASSIGN_OR_RETURN(const Text from, TextArgument(arguments, 0, "old", std::nullopt));
    KVLINK_ASSIGN_OR_RETURN(const Text to, TextArgument(arguments, 1, "new", std::nullopt));
    KVLINK_ASSIGN_OR_RETURN(const int64_t count, IntArgument(arguments, 2, "count", -1));
    const Text from_text = text();
    KVLINK_RETURN_IF_ERROR(SpendSearch(from_text, from, line));
    return ReplaceText(from_text, from, to, count, line);
  }
  if (name == "indent") return IndentFilter(text(), arguments);
  if (name == "tojson") {
    for (const char* unknown : {"separators", "sort_keys", "ensure_ascii"}) {
      const Value* value = arguments.Find(std::numeric_limits<size_t>::max(), unknown);
      if (value != nullptr && value->Truthy()) return Unimplemented(line, absl::StrCat("tojson with ", unknown));
    }
    if (!arguments.values.empty()) return Unimplemented(line, "tojson with arguments without a name");
    KVLINK_ASSIGN_OR_RETURN(const int64_t indent, IntArgument(arguments, 0, "indent", -1));
    if (indent > kMaxNesting) return Error(line, absl::StrCat("tojson indents by ", kMaxNesting, " at most"));
    Text json;
    if (!ToJson(input, indent, budget_, json)) {
      KVLINK_RETURN_IF_ERROR(CheckBudget(line));
      return Error(line, absl::StrCat("a ", input.TypeName(), " has no form in JSON"));
    }
    return NewText(std::move(json), line);
  }
  known = false;
  return Value();
}

Evaluator::Result Evaluator::IndentFilter(const Text& text, const Arguments& arguments) {
  Text indent(4, U' ');
  const Value* width = arguments.Find(0, "width");
  if (width != nullptr && width->string() != nullptr) {
    indent = *width->string();
  } else {
    KVLINK_ASSIGN_OR_RETURN(const int64_t spaces, IntArgument(arguments, 0, "width", 4));
    if (spaces > 1024) return Error(arguments.line, "indent takes a width of 1024 at most");
    indent.assign(static_cast<size_t>(std::max<int64_t>(spaces, 0)), U' ');
  }
  const Value* first = arguments.Find(1, "first");
  const Value* blank = arguments.Find(2, "blank");
  const bool untrusted = std::any_of(text.begin(), text.end(), [](char32_t c) { return (c & kUntrusted) != 0; });
  std::vector<Text> lines = SplitLines(text + U'\n');
  if (!budget_.Spend(static_cast<int64_t>(lines.size() * (1 + indent.size() / 64)))) return CheckBudget(arguments.line);
  Text out;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += untrusted ? U'\n' | kUntrusted : U'\n';
    const bool indented =
        i == 0 ? first != nullptr && first->Truthy() : !lines[i].empty() || (blank != nullptr && blank->Truthy());
    if (indented) out += indent;
    out += lines[i];
    if (static_cast<int64_t>(out.size()) > kMaxOutputBytes) break;  // NewText reports the error
  }
  return NewText(std::move(out), arguments.line);
}

Evaluator::Result Evaluator::ListFilter(const std::string& name, const Value& input, const Arguments& arguments,
                                        bool& known) {
  const int line = arguments.line;
  if (name == "length" || name == "count") {
    if (input.is_undefined()) return Value::Int(0);
    if (input.string() != nullptr) return Value::Int(static_cast<int64_t>(input.string()->size()));
    if (input.list() != nullptr) return Value::Int(static_cast<int64_t>(input.list()->items.size()));
    if (input.dict() != nullptr) return Value::Int(static_cast<int64_t>(input.dict()->entries.size()));
    return Error(line, absl::StrCat("a ", input.TypeName(), " has no length"));
  }
  if (name == "map") return MapFilter(input, arguments);
  if (name == "select" || name == "reject" || name == "selectattr" || name == "rejectattr") {
    return SelectFilter(name, input, arguments);
  }
  if (name == "items") {
    if (input.is_undefined()) return NewList({}, line);
    if (input.dict() == nullptr) return Error(line, absl::StrCat("items takes a mapping, not a ", input.TypeName()));
    return CallMethod(input, "items", Tail(arguments, arguments.values.size()));
  }
  if (name != "first" && name != "last" && name != "list" && name != "reverse" && name != "join") {
    known = false;
    return Value();
  }
  if (name == "reverse" && input.string() != nullptr) {
    return NewText(Text(input.string()->rbegin(), input.string()->rend()), line);
  }
  KVLINK_ASSIGN_OR_RETURN(std::vector<Value> items, Items(input, line));
  if (name == "first" || name == "last") {
    if (items.empty()) return Value::Missing(absl::StrCat("there is no ", name, " item, the sequence is empty"));
    return name == "first" ? items.front() : items.back();
  }
  if (name == "list") return NewList(std::move(items), line);
  if (name == "reverse") {
    std::reverse(items.begin(), items.end());
    return NewList(std::move(items), line);
  }
  const Value* attribute = arguments.Find(1, "attribute");
  if (attribute != nullptr && attribute->is_none()) attribute = nullptr;
  if (attribute != nullptr) {
    for (Value& item : items) {
      KVLINK_ASSIGN_OR_RETURN(item, Item(item, *attribute, line));
    }
  }
  KVLINK_ASSIGN_OR_RETURN(const Text separator, TextArgument(arguments, 0, "d", Text()));
  return JoinText(items, separator, line);
}

Evaluator::Result Evaluator::NumberFilter(const std::string& name, const Value& input, const Arguments& arguments,
                                          bool& known) {
  if (name == "default" || name == "d") {
    const Value* fallback = arguments.Find(0, "default_value");
    const Value* boolean = arguments.Find(1, "boolean");
    const bool replace = input.is_undefined() || (boolean != nullptr && boolean->Truthy() && !input.Truthy());
    if (!replace) return input;
    return fallback != nullptr ? *fallback : Value::String("");
  }
  if (name == "int" || name == "float") {
    const Value* given = arguments.Find(0, "default");
    const Value fallback = given != nullptr ? *given : name == "int" ? Value::Int(0) : Value::Float(0);
    if (input.is_integer()) return name == "int" ? Value::Int(input.AsInt()) : Value::Float(input.AsDouble());
    double number = 0;
    int64_t integer = 0;
    if (input.is_float()) {
      number = input.AsDouble();
    } else if (input.string() == nullptr) {
      return fallback;
    } else if (name == "int" && absl::SimpleAtoi(EncodeText(*input.string()), &integer)) {
      return Value::Int(integer);
    } else if (!absl::SimpleAtod(EncodeText(*input.string()), &number)) {
      return fallback;
    }
    if (name == "float") return Value::Float(number);
    return std::isfinite(number) && std::fabs(number) < 9e18 ? Value::Int(static_cast<int64_t>(number)) : fallback;
  }
  known = false;
  return Value();
}

Evaluator::Result Evaluator::SelectFilter(const std::string& name, const Value& input, const Arguments& arguments) {
  const bool by_attribute = name == "selectattr" || name == "rejectattr";
  const bool keep = name == "select" || name == "selectattr";
  const size_t at = by_attribute ? 1 : 0;
  if (arguments.values.size() < at) return Error(arguments.line, absl::StrCat(name, " takes the name of an attribute"));
  const Arguments rest = Tail(arguments, std::min(at + 1, arguments.values.size()));
  std::string test;
  if (arguments.values.size() > at) {
    if (arguments.values[at].string() == nullptr)
      return Error(arguments.line, absl::StrCat(name, " takes the name of a test"));
    test = EncodeText(*arguments.values[at].string());
  }
  KVLINK_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(input, arguments.line));
  std::vector<Value> kept;
  for (const Value& item : items) {
    Value subject = item;
    if (by_attribute) {
      const Value& attribute = arguments.values[0];
      if (attribute.string() == nullptr) {
        KVLINK_ASSIGN_OR_RETURN(subject, Item(item, attribute, arguments.line));
      } else {
        for (const absl::string_view part : absl::StrSplit(EncodeText(*attribute.string()), '.')) {
          KVLINK_ASSIGN_OR_RETURN(subject, Item(subject, Value::String(part), arguments.line));
        }
      }
    }
    bool passed = subject.Truthy();
    if (!test.empty()) {
      KVLINK_ASSIGN_OR_RETURN(passed, Test(test, subject, rest));
    }
    if (passed == keep) kept.push_back(item);
  }
  return NewList(std::move(kept), arguments.line);
}

Evaluator::Result Evaluator::MapFilter(const Value& input, const Arguments& arguments) {
  const Value* attribute = arguments.values.empty() ? arguments.Find(0, "attribute") : nullptr;
  const Value* fallback = arguments.Find(std::numeric_limits<size_t>::max(), "default");
  if (attribute == nullptr && (arguments.values.empty() || arguments.values[0].string() == nullptr)) {
    return Error(arguments.line, "map takes the name of a filter, or attribute=");
  }
  KVLINK_ASSIGN_OR_RETURN(std::vector<Value> items, Items(input, arguments.line));
  const Arguments rest = Tail(arguments, std::min<size_t>(1, arguments.values.size()));
  for (Value& item : items) {
    budget_.Spend(1);
    if (attribute != nullptr) {
      KVLINK_ASSIGN_OR_RETURN(item, Item(item, *attribute, arguments.line));
      if (item.is_undefined() && fallback != nullptr) item = *fallback;
    } else {
      KVLINK_ASSIGN_OR_RETURN(item, Filter(EncodeText(*arguments.values[0].string()), item, rest));
    }
  }
  return NewList(std::move(items), arguments.line);
}

absl::StatusOr<bool> Evaluator::Test(const std::string& name, const Value& input, const Arguments& arguments) {
  const int line = arguments.line;
  budget_.Spend(1);
  KVLINK_RETURN_IF_ERROR(CheckBudget(line));
  if (name == "defined") return !input.is_undefined();
  if (name == "undefined") return input.is_undefined();
  if (name == "none") return input.is_none();
  if (name == "string") return input.string() != nullptr;
  if (name == "number") return input.is_number();
  if (name == "integer") return input.is_int();
  if (name == "float") return input.is_float();
  if (name == "boolean") return input.is_bool();
  if (name == "true") return input.is_bool() && input.Truthy();
  if (name == "false") return input.is_bool() && !input.Truthy();
  if (name == "mapping") return input.dict() != nullptr;
  if (name == "sequence" || name == "iterable") {
    return input.string() != nullptr || input.list() != nullptr || input.dict() != nullptr || input.is_undefined();
  }
  if (name == "callable") return input.function() != nullptr;
  if (name == "lower" || name == "upper") return AllCase(ToText(input, budget_), name == "upper");
  if (name == "odd" || name == "even") {
    if (!input.is_integer()) return Error(line, absl::StrCat(name, " takes an integer"));
    return (input.AsInt() % 2 != 0) == (name == "odd");
  }
  const auto argument = [&]() -> Result {
    if (arguments.values.size() == 1) return arguments.values[0];
    return Error(line, absl::StrCat("the test \"", name, "\" takes one argument"));
  };
  static constexpr std::pair<const char*, const char*> kCompare[] = {
      {"eq", "=="},         {"equalto", "=="}, {"==", "=="}, {"ne", "!="}, {"!=", "!="}, {"lt", "<"},
      {"lessthan", "<"},    {"<", "<"},        {"le", "<="}, {"<=", "<="}, {"gt", ">"},  {">", ">"},
      {"greaterthan", ">"}, {"ge", ">="},      {">=", ">="}, {"in", "in"},
  };
  for (const auto& [test, op] : kCompare) {
    if (name != test) continue;
    KVLINK_ASSIGN_OR_RETURN(const Value other, argument());
    return Compare(op, input, other, line);
  }
  if (name == "sameas") {
    KVLINK_ASSIGN_OR_RETURN(const Value other, argument());
    return input.TypeName() == other.TypeName() && Equal(input, other, budget_);
  }
  if (name == "divisibleby") {
    KVLINK_ASSIGN_OR_RETURN(const Value other, argument());
    KVLINK_ASSIGN_OR_RETURN(const Value rest, Arithmetic("%", input, other, line));
    return !rest.Truthy();
  }
  return Unimplemented(line, absl::StrCat("the test \"", name, "\""));
}

}  // namespace kvlink::model::jinja
