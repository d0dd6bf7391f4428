// The contract of store.h, checked on every implementation: contract_test.cc is part of several test programs, each of
// which names the stores to test.
#ifndef KVLINK_TESTS_STORE_CONTRACT_H_
#define KVLINK_TESTS_STORE_CONTRACT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "store/store.h"

namespace kvlink::testing {

// A store somewhere, initially empty.
class StorePlace {
 public:
  virtual ~StorePlace() = default;
  virtual store::Store* store() = 0;
  // Closes everything and reopens it on the same directory.
  virtual void Reopen() = 0;
  // Whether a reader's leases count in the store, or the bytes are the reader's own copy.
  virtual bool leases_count() const { return true; }
};

struct StorePlaceOptions {
  int64_t dram_bytes = 32 << 20;
  int64_t capacity_bytes = 32 << 20;
};

struct StoreMaker {
  std::string name;  // letters, digits, underscores
  std::function<std::unique_ptr<StorePlace>(const StorePlaceOptions&)> make;
};
inline std::ostream& operator<<(std::ostream& out, const StoreMaker& maker) { return out << maker.name; }

// Defined by the test program.
std::vector<StoreMaker> StoresUnderTest();

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_STORE_CONTRACT_H_
