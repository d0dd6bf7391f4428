// Values of the template interpreter, with Python's semantics: undefined, none, booleans, integers, floats, strings,
// lists and tuples, dictionaries in insertion order, namespaces, functions and the loop variable.
//
// Values are shared and immutable, except namespaces and loops. Those two are "opaque": neither may be stored in a
// namespace, so that reference cycles cannot arise. Containers know their depth, so that deep ones are refused on
// creation.
//
// Thread-safety: values of one rendering belong to the thread that renders.
#ifndef KVLINK_WORKER_TEXT_TEMPLATE_JINJA_VALUE_H_
#define KVLINK_WORKER_TEXT_TEMPLATE_JINJA_VALUE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"
#include "worker/text/template/jinja_text.h"

namespace kvlink::model::jinja {

inline constexpr int kMaxNesting = 64;
inline constexpr int64_t kMaxSteps = 1000000;
inline constexpr int64_t kMaxOutputBytes = int64_t{16} << 20;

// The remaining steps of one rendering. Once exhausted it stays so, and the rendering fails.
class Budget {
 public:
  // False if the budget is exhausted.
  bool Spend(int64_t steps) {
    left_ = steps > left_ ? -1 : left_ - steps;
    return left_ >= 0;
  }
  // The cost of creating `characters` of text: one step per 64.
  bool SpendText(size_t characters) { return Spend(1 + static_cast<int64_t>(characters / 64)); }
  bool exhausted() const { return left_ < 0; }

 private:
  int64_t left_ = kMaxSteps;
};

struct List;
struct Dict;
struct Namespace;
struct Function;
struct Loop;

struct Undefined {
  std::string why;  // "'x' is undefined"
};
struct None {};

class Value {
 public:
  Value() : data_(Undefined{}) {}
  static Value Missing(std::string why);
  static Value MakeNone();
  static Value Bool(bool value);
  static Value Int(int64_t value);
  static Value Float(double value);
  static Value String(Text text);
  // Trusted text from a literal of this program.
  static Value String(absl::string_view ascii) { return String(Ascii(ascii)); }
  static Value MakeList(std::vector<Value> items, bool tuple = false);
  static Value MakeDict(std::vector<std::pair<Value, Value>> entries);
  static Value MakeNamespace(std::vector<std::pair<std::string, Value>> entries);
  static Value MakeFunction(Function function);
  static Value MakeLoop(std::shared_ptr<Loop> loop);

  bool is_undefined() const { return std::holds_alternative<Undefined>(data_); }
  bool is_none() const { return std::holds_alternative<None>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_int() const { return std::holds_alternative<int64_t>(data_); }
  bool is_float() const { return std::holds_alternative<double>(data_); }
  // As in Python, a bool is a number.
  bool is_number() const { return is_bool() || is_int() || is_float(); }
  bool is_integer() const { return is_bool() || is_int(); }

  // The content, or null if the value has another type.
  const Undefined* undefined() const { return std::get_if<Undefined>(&data_); }
  const Text* string() const { return Get<const Text>(); }
  const List* list() const { return Get<const List>(); }
  const Dict* dict() const { return Get<const Dict>(); }
  Namespace* name_space() const { return Get<Namespace>(); }
  const Function* function() const { return Get<const Function>(); }
  Loop* loop() const { return Get<Loop>(); }
  // Requires is_integer / is_number.
  int64_t AsInt() const;
  double AsDouble() const;

  bool Truthy() const;
  // Python's name of the type: "str", "list", ...
  absl::string_view TypeName() const;
  // Nesting depth of containers, 0 for plain values.
  int depth() const;
  // Whether a namespace or loop is reachable.
  bool opaque() const;

 private:
  template <typename T>
  T* Get() const {
    const auto* pointer = std::get_if<std::shared_ptr<T>>(&data_);
    return pointer == nullptr ? nullptr : pointer->get();
  }

  std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const Text>, std::shared_ptr<const List>,
               std::shared_ptr<const Dict>, std::shared_ptr<Namespace>, std::shared_ptr<const Function>,
               std::shared_ptr<Loop>>
      data_;
};

struct List {
  std::vector<Value> items;
  bool tuple = false;
  int depth = 1;
  bool opaque = false;
};

struct Dict {
  std::vector<std::pair<Value, Value>> entries;
  int depth = 1;
  bool opaque = false;
  // Null if there is none.
  const Value* Find(absl::string_view ascii_key) const;
};

struct Namespace {
  std::vector<std::pair<std::string, Value>> entries;
};

struct Statement;

// A global function, a method bound to its value, or a macro (a statement of the template, which outlives the
// rendering).
struct Function {
  std::string name;
  bool method = false;
  Value self;
  const Statement* macro = nullptr;
};

// The `loop` variable within a for.
struct Loop {
  std::vector<Value> items;
  size_t index = 0;
  int depth = 1;
  Value changed;  // the arguments of the last loop.changed()
};

// Python's ==. Spends steps by the size of the operands; false once the budget is exhausted.
bool Equal(const Value& a, const Value& b, Budget& budget);
// The dictionary entry with this key, or null.
const Value* FindKey(const Dict& dict, const Value& key, Budget& budget);
// Python's str() and repr(). Strings inside keep their trust.
Text ToText(const Value& value, Budget& budget);
// json.dumps(value, ensure_ascii=False, indent=indent); indent < 0: one line. False for values that JSON cannot
// express.
bool ToJson(const Value& value, int64_t indent, Budget& budget, Text& out);

}  // namespace kvlink::model::jinja

#endif  // KVLINK_WORKER_TEXT_TEMPLATE_JINJA_VALUE_H_
