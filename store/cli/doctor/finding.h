// What kvlink doctor says about one thing, in one line.
#ifndef KVLINK_STORE_CLI_DOCTOR_FINDING_H_
#define KVLINK_STORE_CLI_DOCTOR_FINDING_H_

#include <string>

namespace kvlink::cli {

enum class Health {
  kOk,
  kWarning,  // it works, at a price
  kError,    // it does not work
};

struct Finding {
  std::string what;  // of docs/commands.md; programs look for it
  std::string value;
  Health health = Health::kOk;
  std::string effect = "";  // what it gains or costs
  std::string mend = "";    // empty: nothing is to be done
};

}  // namespace kvlink::cli

#endif  // KVLINK_STORE_CLI_DOCTOR_FINDING_H_
