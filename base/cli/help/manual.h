// Manual pages, in roff with the macros of man(7), made from what --help tells.
// Thread-safety: pure functions.
#ifndef KVLINK_BASE_CLI_HELP_MANUAL_H_
#define KVLINK_BASE_CLI_HELP_MANUAL_H_

#include <string>

#include "base/cli/program.h"

namespace kvlink::cli {

// A page of section 1.
struct Page {
  std::string name;  // "kvlink-ask"
  std::string text;
};

Page ProgramPage(const ProgramHelp& program);
Page CommandPage(const ProgramHelp& program, const ProgramHelp::Entry& command);

}  // namespace kvlink::cli

#endif  // KVLINK_BASE_CLI_HELP_MANUAL_H_
