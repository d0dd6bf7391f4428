// Checksums of ranges, distributed over threads by range.
#include "base/checksum.h"

#include "kernels/cpu/operations.h"

namespace kvlink::kernels::cpu {

void Checksum(const ChecksumArgs& args, const Threads& threads) {
  const std::byte* bytes = args.bytes.as<const std::byte>();
  uint64_t* out = args.out.as<uint64_t>();
  threads.For(static_cast<int64_t>(args.offsets.size()),
              [&](int64_t i, int) { out[i] = Xxh3(bytes + args.offsets[i], static_cast<size_t>(args.lengths[i])); });
}

}  // namespace kvlink::kernels::cpu
