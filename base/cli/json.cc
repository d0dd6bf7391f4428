#include "base/cli/json.h"

#include <cstdio>

#include "nlohmann/json.hpp"

namespace kvlink::cli {

void AddJsonFlag(Arguments& arguments, bool* json) { arguments.Flag("json", "Print JSON.", json); }

std::string JsonText(const nlohmann::json& json, bool one_line) {
  return json.dump(one_line ? -1 : 1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void PrintJson(const nlohmann::json& json, bool one_line) { std::puts(JsonText(json, one_line).c_str()); }

}  // namespace kvlink::cli
