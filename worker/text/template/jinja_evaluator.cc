// Executes statements. Every loop and copy spends from one budget, so that a template cannot run forever. What cannot
// be evaluated exactly as in Python is an error with its line number.
#include "worker/text/template/jinja_evaluator.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace kvlink::model::jinja {
const Value* Arguments::Find(size_t position, absl::string_view name) const {
  if (position < values.size()) return &values[position];
  for (const auto& [key, value] : named) {
    if (key == name) return &value;
  }
  return nullptr;
}

absl::StatusOr<Text> Evaluate(const Body& body, const Variables& variables, const std::string& date) {
  return Evaluator(variables, date).Run(body);
}

Evaluator::Evaluator(const Variables& variables, const std::string& date) : date_(date), scopes_(2) {
  for (const char* name : {"range", "namespace", "dict", "raise_exception", "strftime_now"}) {
    Function function;
    function.name = name;
    scopes_[0][name] = Value::MakeFunction(std::move(function));
  }
  for (const auto& [name, value] : variables) scopes_[0][name] = value;
}

absl::StatusOr<Text> Evaluator::Run(const Body& body) {
  Text output;
  output_ = &output;
  KVLINK_RETURN_IF_ERROR(Execute(body).status());
  KVLINK_RETURN_IF_ERROR(CheckBudget(body.empty() ? 1 : body.back().line));
  return output;
}

absl::Status Evaluator::Error(int line, absl::string_view what) const {
  return absl::InvalidArgumentError(absl::StrCat("line ", line, ": ", what));
}

absl::Status Evaluator::Unimplemented(int line, absl::string_view what) const {
  return absl::UnimplementedError(absl::StrCat("line ", line, ": ", what, " is not supported in chat templates"));
}

absl::Status Evaluator::CheckBudget(int line) const {
  if (!budget_.exhausted()) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("line ", line, ": the template takes more than ", kMaxSteps, " steps"));
}

absl::Status Evaluator::Enter(int line) {
  budget_.Spend(1);
  KVLINK_RETURN_IF_ERROR(CheckBudget(line));
  if (depth_ <= kMaxDescent) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("line ", line, ": macros call each other too deep"));
}

Evaluator::Result Evaluator::NewText(Text text, int line) {
  budget_.SpendText(text.size());
  KVLINK_RETURN_IF_ERROR(CheckBudget(line));
  if (static_cast<int64_t>(text.size()) > kMaxOutputBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("line ", line, ": a string of more than ", kMaxOutputBytes, " characters"));
  }
  return Value::String(std::move(text));
}

Evaluator::Result Evaluator::NewList(std::vector<Value> items, int line, bool tuple) {
  budget_.Spend(1 + static_cast<int64_t>(items.size()));
  KVLINK_RETURN_IF_ERROR(CheckBudget(line));
  Value value = Value::MakeList(std::move(items), tuple);
  if (value.depth() <= kMaxNesting) return value;
  return absl::ResourceExhaustedError(absl::StrCat("line ", line, ": lists nested deeper than ", kMaxNesting));
}

Evaluator::Result Evaluator::NewDict(std::vector<std::pair<Value, Value>> entries, int line) {
  budget_.Spend(1 + static_cast<int64_t>(entries.size()));
  KVLINK_RETURN_IF_ERROR(CheckBudget(line));
  Value value = Value::MakeDict(std::move(entries));
  if (value.depth() <= kMaxNesting) return value;
  return absl::ResourceExhaustedError(absl::StrCat("line ", line, ": dictionaries nested deeper than ", kMaxNesting));
}

absl::Status Evaluator::Emit(const Text& text, int line) {
  if (static_cast<int64_t>(output_->size() + text.size()) > kMaxOutputBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("line ", line, ": the template writes more than ", kMaxOutputBytes, " characters"));
  }
  *output_ += text;
  return absl::OkStatus();
}

absl::StatusOr<Evaluator::Flow> Evaluator::Execute(const Body& body) {
  for (const Statement& statement : body) {
    KVLINK_ASSIGN_OR_RETURN(const Flow flow, Execute(statement));
    if (flow != Flow::kNormal) return flow;
  }
  return Flow::kNormal;
}

absl::StatusOr<Evaluator::Flow> Evaluator::Execute(const Statement& statement) {
  Nest nest(this);
  KVLINK_RETURN_IF_ERROR(Enter(statement.line));
  switch (statement.kind) {
    case Statement::Kind::kText:
      KVLINK_RETURN_IF_ERROR(Emit(statement.text, statement.line));
      return Flow::kNormal;
    case Statement::Kind::kOutput: {
      KVLINK_ASSIGN_OR_RETURN(const Value value, Eval(*statement.value));
      KVLINK_RETURN_IF_ERROR(
          Emit(value.string() != nullptr ? *value.string() : ToText(value, budget_), statement.line));
      return Flow::kNormal;
    }
    case Statement::Kind::kIf:
      for (const Statement::Branch& branch : statement.branches) {
        if (branch.condition != nullptr) {
          KVLINK_ASSIGN_OR_RETURN(const Value condition, Eval(*branch.condition));
          if (!condition.Truthy()) continue;
        }
        return Execute(branch.body);
      }
      return Flow::kNormal;
    case Statement::Kind::kFor:
      return ExecuteFor(statement);
    case Statement::Kind::kSet:
    case Statement::Kind::kSetBlock:
    case Statement::Kind::kMacro:
      KVLINK_RETURN_IF_ERROR(ExecuteSet(statement));
      return Flow::kNormal;
    case Statement::Kind::kWith: {
      Scope scope;
      for (const auto& [name, expression] : statement.parameters) {
        KVLINK_ASSIGN_OR_RETURN(scope[name], Eval(*expression));
      }
      scopes_.push_back(std::move(scope));
      absl::StatusOr<Flow> flow = Execute(statement.body);
      scopes_.pop_back();
      return flow;
    }
    case Statement::Kind::kFilter: {
      KVLINK_ASSIGN_OR_RETURN(const Value value, Capture(statement.body, statement.value.get(), statement.line));
      KVLINK_RETURN_IF_ERROR(Emit(ToText(value, budget_), statement.line));
      return Flow::kNormal;
    }
    case Statement::Kind::kScope: {
      scopes_.emplace_back();
      absl::StatusOr<Flow> flow = Execute(statement.body);
      scopes_.pop_back();
      return flow;
    }
    case Statement::Kind::kBreak:
      return Flow::kBreak;
    case Statement::Kind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNormal;
}

absl::StatusOr<Evaluator::Flow> Evaluator::ExecuteFor(const Statement& statement) {
  KVLINK_ASSIGN_OR_RETURN(const Value sequence, Eval(*statement.value));
  KVLINK_ASSIGN_OR_RETURN(std::vector<Value> items, Items(sequence, statement.line));
  if (statement.filter != nullptr) {
    std::vector<Value> kept;
    for (const Value& item : items) {
      scopes_.emplace_back();
      absl::Status assigned = Assign(statement, item);
      Result condition = assigned.ok() ? Eval(*statement.filter) : Result(assigned);
      scopes_.pop_back();
      KVLINK_RETURN_IF_ERROR(condition.status());
      if (condition->Truthy()) kept.push_back(item);
    }
    items = std::move(kept);
  }
  if (!items.empty()) return ExecuteLoop(statement, std::move(items));
  scopes_.emplace_back();
  absl::StatusOr<Flow> flow = Execute(statement.otherwise);
  scopes_.pop_back();
  return flow;
}

absl::StatusOr<Evaluator::Flow> Evaluator::ExecuteLoop(const Statement& statement, std::vector<Value> items) {
  const Value outer = Lookup("loop");
  auto loop = std::make_shared<Loop>();
  loop->depth = outer.loop() != nullptr ? outer.loop()->depth + 1 : 1;
  loop->items = std::move(items);
  for (; loop->index < loop->items.size(); ++loop->index) {
    scopes_.emplace_back();
    scopes_.back()["loop"] = Value::MakeLoop(loop);
    absl::StatusOr<Flow> flow = Flow::kNormal;
    if (absl::Status status = Assign(statement, loop->items[loop->index]); status.ok()) {
      flow = Execute(statement.body);
    } else {
      flow = status;
    }
    scopes_.pop_back();
    KVLINK_RETURN_IF_ERROR(flow.status());
    if (*flow == Flow::kBreak) break;
  }
  return Flow::kNormal;
}

absl::Status Evaluator::Assign(const Statement& statement, const Value& value) {
  if (statement.targets.size() == 1) {
    scopes_.back()[statement.targets[0]] = value;
    return absl::OkStatus();
  }
  KVLINK_ASSIGN_OR_RETURN(const std::vector<Value> parts, Items(value, statement.line));
  if (parts.size() != statement.targets.size()) {
    return Error(statement.line,
                 absl::StrCat("expected ", statement.targets.size(), " values to unpack but got ", parts.size()));
  }
  for (size_t i = 0; i < parts.size(); ++i) scopes_.back()[statement.targets[i]] = parts[i];
  return absl::OkStatus();
}

absl::Status Evaluator::ExecuteSet(const Statement& statement) {
  if (statement.kind == Statement::Kind::kMacro) {
    Function function;
    function.name = statement.name;
    function.macro = &statement;
    scopes_.back()[statement.name] = Value::MakeFunction(std::move(function));
    return absl::OkStatus();
  }
  Value value;
  if (statement.kind == Statement::Kind::kSetBlock) {
    KVLINK_ASSIGN_OR_RETURN(value, Capture(statement.body, statement.value.get(), statement.line));
  } else {
    KVLINK_ASSIGN_OR_RETURN(value, Eval(*statement.value));
  }
  if (statement.name.empty()) return Assign(statement, value);
  const Value target = Lookup(statement.name);
  if (target.name_space() == nullptr) return Error(statement.line, "only a namespace() takes new attributes");
  if (value.opaque()) return Unimplemented(statement.line, "a namespace or a loop within a namespace");
  auto& entries = target.name_space()->entries;
  budget_.Spend(static_cast<int64_t>(entries.size() / 16));
  const auto entry =
      std::find_if(entries.begin(), entries.end(), [&](const auto& e) { return e.first == statement.targets[0]; });
  if (entry == entries.end()) {
    entries.emplace_back(statement.targets[0], std::move(value));
  } else {
    entry->second = std::move(value);
  }
  return absl::OkStatus();
}

Evaluator::Result Evaluator::Capture(const Body& body, const Expression* filters, int line) {
  Text text;
  Text* const outer = std::exchange(output_, &text);
  scopes_.emplace_back();
  const absl::StatusOr<Flow> flow = Execute(body);
  scopes_.pop_back();
  output_ = outer;
  KVLINK_RETURN_IF_ERROR(flow.status());
  KVLINK_ASSIGN_OR_RETURN(Value value, NewText(std::move(text), line));
  return filters == nullptr ? Result(std::move(value)) : EvalFilter(*filters, &value);
}

Evaluator::Result Evaluator::CallMacro(const Statement& macro, const Arguments& arguments) {
  if (arguments.values.size() > macro.parameters.size()) {
    return Error(arguments.line,
                 absl::StrCat("the macro ", macro.name, " takes ", macro.parameters.size(), " arguments"));
  }
  for (const auto& [name, value] : arguments.named) {
    const auto same = [&name = name](const auto& parameter) { return parameter.first == name; };
    if (std::none_of(macro.parameters.begin(), macro.parameters.end(), same)) {
      return Error(arguments.line, absl::StrCat("the macro ", macro.name, " has no argument ", name));
    }
  }
  const size_t frame = std::exchange(frame_, scopes_.size());
  scopes_.emplace_back();
  absl::Status status;
  for (size_t i = 0; i < macro.parameters.size() && status.ok(); ++i) {
    const auto& [name, fallback] = macro.parameters[i];
    if (const Value* given = arguments.Find(i, name)) {
      scopes_.back()[name] = *given;
    } else if (fallback == nullptr) {
      scopes_.back()[name] = Value::Missing(absl::StrCat("parameter '", name, "' was not provided"));
    } else {
      Result value = Eval(*fallback);
      status = value.status();
      if (status.ok()) scopes_.back()[name] = *std::move(value);
    }
  }
  Result result = status.ok() ? Capture(macro.body, nullptr, arguments.line) : Result(status);
  scopes_.pop_back();
  frame_ = frame;
  return result;
}

}  // namespace kvlink::model::jinja
