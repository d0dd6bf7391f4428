// Merges the nodes' records through an ordered map, so that encodings() is sorted by name and Find() a binary search.
// Clients call Holders() for every read, so it has a hash table of its own, by identity alone.
#include "store/cluster/hot.h"

#include <algorithm>
#include <map>

#include "absl/algorithm/container.h"

namespace kvlink::store::cluster {

std::shared_ptr<const HotView> HotView::Make(absl::Span<const std::pair<uint16_t, const HotRecord*>> records) {
  std::map<HotName, Encoding> by_name;
  auto view = std::make_shared<HotView>();
  for (const auto& [member, record] : records) {
    for (const HotRead& read : record->read) {
      Encoding& encoding = by_name[read.name];
      encoding.copies = std::max(encoding.copies, read.copies);
      encoding.reads_per_second += read.reads_per_second;
    }
    for (const HotName& name : record->held) {
      std::vector<uint16_t>& of_name = by_name[name].holders;
      if (of_name.empty() || of_name.back() != member) of_name.push_back(member);
      auto& holders = view->holders_[name.identity];
      if (!absl::c_linear_search(holders, member)) holders.push_back(member);
    }
  }
  if (by_name.empty()) return nullptr;
  for (auto& [name, encoding] : by_name) {
    encoding.name = name;
    absl::c_sort(encoding.holders);
    view->encodings_.push_back(std::move(encoding));
  }
  return view;
}

const HotView::Encoding* HotView::Find(const HotName& name) const {
  const auto found =
      absl::c_lower_bound(encodings_, name, [](const Encoding& one, const HotName& than) { return one.name < than; });
  return found != encodings_.end() && found->name == name ? &*found : nullptr;
}

absl::Span<const uint16_t> HotView::Holders(const Identity& identity) const {
  const auto found = holders_.find(identity);
  return found == holders_.end() ? absl::Span<const uint16_t>() : absl::MakeConstSpan(found->second);
}

}  // namespace kvlink::store::cluster
