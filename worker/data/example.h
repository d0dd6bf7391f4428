// What a model is tuned on or tested with, in text: a question about documents, a summary of them, a chat, or plain
// text. The question generator (worker/data/question_generator.h) and the readers of public data sets
// (worker/data/reader.h) make them.
// Thread-safety: plain values.
#ifndef KVLINK_WORKER_DATA_EXAMPLE_H_
#define KVLINK_WORKER_DATA_EXAMPLE_H_

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace kvlink::data {

struct Document {
  std::string title;  // may be empty
  std::string text;
};

struct Question {
  std::vector<Document> documents;
  std::string question;
  std::vector<std::string> answers;  // accepted spellings, the one to learn first; not empty
  std::string stem;                  // a sentence that an answer completes: "The founder of X is"; may be empty
  std::string steps;                 // sentences, each with one fact, that lead to the first answer; may be empty
  // The answer first, then wrong ones; empty, or at least two.
  std::vector<std::string> candidates;
  std::vector<int64_t> gold;  // documents that the answer follows from, ascending; empty: not known
  // Further questions about the same documents, which only training asks.
  struct More {
    std::string question, stem, answer, steps;
  };
  std::vector<More> more;
};

struct Summary {
  std::vector<Document> documents;
  std::string instruction;  // what to say to the model
  std::string summary;      // as a person wrote it
};

struct Turn {
  enum class Role { kSystem, kUser, kAssistant };
  Role role = Role::kUser;
  std::string text;
};
struct Chat {
  std::vector<Turn> turns;  // one of the assistant at least
};

struct Text {
  std::string text;
};

struct Example {
  std::string id;    // unique in its file: its own, or its number there
  std::string kind;  // the format's name, for needles with their depth: "hotpotqa", "needle-50"
  std::variant<Question, Summary, Chat, Text> task;
};

}  // namespace kvlink::data

#endif  // KVLINK_WORKER_DATA_EXAMPLE_H_
