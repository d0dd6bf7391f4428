// Runs a parsed template over its variables.
//
// Thread-safety: one Evaluator serves one rendering on one thread; the tree may be shared.
#ifndef KVLINK_WORKER_TEXT_TEMPLATE_JINJA_EVALUATOR_H_
#define KVLINK_WORKER_TEXT_TEMPLATE_JINJA_EVALUATOR_H_

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/text/template/jinja_ast.h"
#include "worker/text/template/jinja_value.h"

namespace kvlink::model::jinja {

using Variables = std::vector<std::pair<std::string, Value>>;

// Returns the text of the template. `date` is the result of strftime_now, as ChatOptions::date. INVALID_ARGUMENT "line
// N: ..." for what Python would raise, UNIMPLEMENTED for an unsupported filter, test or method, FAILED_PRECONDITION
// with the message of raise_exception, RESOURCE_EXHAUSTED for the bounds of jinja_value.h.
absl::StatusOr<Text> Evaluate(const Body& body, const Variables& variables, const std::string& date);

// The arguments of a call, a filter or a test, and its line.
struct Arguments {
  std::vector<Value> values;
  std::vector<std::pair<std::string, Value>> named;
  int line = 0;

  // The argument at a position or by its name, or null.
  const Value* Find(size_t position, absl::string_view name) const;
};

class Evaluator {
 public:
  using Result = absl::StatusOr<Value>;
  Evaluator(const Variables& variables, const std::string& date);

  absl::StatusOr<Text> Run(const Body& body);

 private:
  using Scope = std::map<std::string, Value, std::less<>>;
  enum class Flow { kNormal, kBreak, kContinue };
  // Maximum depth of evaluation, including macros within macros.
  static constexpr int kMaxDescent = 400;
  class Nest {
   public:
    explicit Nest(Evaluator* evaluator) : evaluator_(evaluator) { ++evaluator_->depth_; }
    ~Nest() { --evaluator_->depth_; }
    Nest(const Nest&) = delete;
    Nest& operator=(const Nest&) = delete;

   private:
    Evaluator* const evaluator_;
  };

  // Statements (jinja_evaluator.cc).
  absl::StatusOr<Flow> Execute(const Body& body);
  absl::StatusOr<Flow> Execute(const Statement& statement);
  absl::StatusOr<Flow> ExecuteFor(const Statement& statement);
  absl::StatusOr<Flow> ExecuteLoop(const Statement& statement, std::vector<Value> items);
  absl::Status ExecuteSet(const Statement& statement);
  // The text of `body` in its own scope, passed through `filters` unless null.
  Result Capture(const Body& body, const Expression* filters, int line);
  absl::Status Assign(const Statement& statement, const Value& value);
  absl::Status Emit(const Text& text, int line);
  Result CallMacro(const Statement& macro, const Arguments& arguments);

  // Expressions (jinja_expressions.cc).
  Result Eval(const Expression& expression);
  Result EvalContainer(const Expression& expression);
  Result EvalItem(const Expression& expression);
  Result EvalSlice(const Expression& expression);
  Result EvalCall(const Expression& expression);
  Result EvalFilter(const Expression& expression, const Value* input);
  Result EvalTest(const Expression& expression);
  Result EvalBinary(const Expression& expression);
  Result EvalConcat(const Expression& expression);
  Result EvalCompare(const Expression& expression);
  absl::StatusOr<Arguments> EvalArguments(const Expression& expression);
  Value Lookup(const std::string& name) const;
  Result Attribute(const Value& object, const std::string& name, int line);
  Result Item(const Value& object, const Value& key, int line);
  Result Arithmetic(const std::string& op, const Value& a, const Value& b, int line);
  // a < b for numbers and strings.
  absl::StatusOr<bool> Less(const Value& a, const Value& b, int line);
  absl::StatusOr<bool> Contains(const Value& container, const Value& item, int line);
  absl::StatusOr<bool> Compare(const std::string& op, const Value& a, const Value& b, int line);
  // The values that a for or a list filter iterates over.
  absl::StatusOr<std::vector<Value>> Items(const Value& value, int line);

  // Functions and methods (jinja_functions.cc), filters and tests (jinja_filters.cc).
  Result Call(const Function& function, const Arguments& arguments);
  Result CallGlobal(const std::string& name, const Arguments& arguments);
  Result CallStringMethod(const Text& self, const std::string& name, const Arguments& arguments);
  Result CallMethod(const Value& self, const std::string& name, const Arguments& arguments);
  Result CallLoopMethod(Loop& loop, const std::string& name, const Arguments& arguments);
  Result Filter(const std::string& name, const Value& input, const Arguments& arguments);
  Result StringFilter(const std::string& name, const Value& input, const Arguments& arguments, bool& known);
  Result ListFilter(const std::string& name, const Value& input, const Arguments& arguments, bool& known);
  Result NumberFilter(const std::string& name, const Value& input, const Arguments& arguments, bool& known);
  Result SelectFilter(const std::string& name, const Value& input, const Arguments& arguments);
  Result MapFilter(const Value& input, const Arguments& arguments);
  Result IndentFilter(const Text& text, const Arguments& arguments);
  absl::StatusOr<bool> Test(const std::string& name, const Value& input, const Arguments& arguments);

  // Shared by all of them.
  absl::Status Error(int line, absl::string_view what) const;
  absl::Status Unimplemented(int line, absl::string_view what) const;
  absl::Status CheckBudget(int line) const;
  // Counts one step and one level; RESOURCE_EXHAUSTED beyond either limit.
  absl::Status Enter(int line);
  // Make a value of new text or a new container, after charging its cost and checking its size.
  Result NewText(Text text, int line);
  Result NewList(std::vector<Value> items, int line, bool tuple = false);
  Result NewDict(std::vector<std::pair<Value, Value>> entries, int line);
  // Charges the cost of searching `text` for `part`; RESOURCE_EXHAUSTED beyond the budget.
  absl::Status SpendSearch(const Text& text, const Text& part, int line);
  Result ReplaceText(const Text& text, const Text& from, const Text& to, int64_t count, int line);
  Result JoinText(const std::vector<Value>& items, const Text& separator, int line);
  // An argument that must be a string or an integer; `fallback` if it is missing or none.
  absl::StatusOr<Text> TextArgument(const Arguments& arguments, size_t position, absl::string_view name,
                                    std::optional<Text> fallback);
  absl::StatusOr<int64_t> IntArgument(const Arguments& arguments, size_t position, absl::string_view name,
                                      std::optional<int64_t> fallback);

  const std::string date_;
  Budget budget_;
  int depth_ = 0;
  std::vector<Scope> scopes_;  // 0: the caller's variables and our functions; 1: the template's own
  size_t frame_ = 1;           // scopes from 2 up to here belong to the callers of a macro and are hidden from it
  Text* output_ = nullptr;
};

}  // namespace kvlink::model::jinja

#endif  // KVLINK_WORKER_TEXT_TEMPLATE_JINJA_EVALUATOR_H_
