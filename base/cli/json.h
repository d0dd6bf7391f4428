// Reports as JSON. A command that takes --json prints exactly one value on standard output (docs/commands.md); progress
// and errors stay on standard error.
// Thread-safety: one thread at a time.
#ifndef KVLINK_BASE_CLI_JSON_H_
#define KVLINK_BASE_CLI_JSON_H_

#include <string>

#include "base/cli/args.h"
#include "nlohmann/json_fwd.hpp"

namespace kvlink::cli {

// --json.
void AddJsonFlag(Arguments& arguments, bool* json);

// Indented, or on one line. Invalid UTF-8 is replaced.
std::string JsonText(const nlohmann::json& json, bool one_line = false);
// JsonText and a newline, to standard output.
void PrintJson(const nlohmann::json& json, bool one_line = false);

}  // namespace kvlink::cli

#endif  // KVLINK_BASE_CLI_JSON_H_
