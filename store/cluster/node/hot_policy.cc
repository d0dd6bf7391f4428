// Keeps a state for each encoding that is hot here or wanted by another node, at most kMaxHotRead, and decides for each
// on its own. Two timers give hysteresis: `settled` delays more copies, `cooled` delays fewer.
#include "store/cluster/node/hot_policy.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace kvlink::store::cluster {
namespace {

// Reads per second from which copies are wanted. One read of a large encoding exceeds any limit for some seconds, but a
// copy costs as much as a read, so it pays only if reads repeat. A single one counts as 0.35 a second at first
// (NodeLimits::read_rates_half_life).
constexpr double kMinReads = 0.5;

template <typename Rate>
bool Exceeds(const Rate& rate, double limit) {
  return rate.bytes_per_second > limit && rate.reads_per_second >= kMinReads;
}

bool OthersWant(const View& view, const HotName& name) {
  const HotView::Encoding* const encoding = view.hot == nullptr ? nullptr : view.hot->Find(name);
  return encoding != nullptr && encoding->copies > 0;
}

int HoldersOf(const View& view, const HotName& name) {
  const HotView::Encoding* const encoding = view.hot == nullptr ? nullptr : view.hot->Find(name);
  const int further = encoding == nullptr ? 0 : static_cast<int>(encoding->holders.size());
  return view.placement.current().width() + further;
}

}  // namespace

void HotPolicy::Take(const node::ReadRates::Snapshot& rates, const View& view) {
  for (auto& [name, state] : states_) state.reads_per_second = state.bytes_per_second = 0;
  const double limit = static_cast<double>(options_.bytes_per_second);
  for (const node::ReadRates::Rate& rate : rates.encodings) {
    HotName name{rate.key.ns, rate.key.identity, rate.key.codec};
    auto known = states_.find(name);
    if (known == states_.end()) {
      const bool hot = Exceeds(rate, limit) && rate.bytes_per_second > options_.part * rates.bytes_per_second;
      if (states_.size() == kMaxHotRead || !(hot || OthersWant(view, name))) continue;
      known = states_.emplace(std::move(name), State()).first;
    }
    known->second.reads_per_second = rate.reads_per_second;
    known->second.bytes_per_second = rate.bytes_per_second;
  }
}

int HotPolicy::HoldersFor(const State& state, double limit) {
  constexpr double kMany = 1e6;
  return static_cast<int>(std::min(std::ceil(state.bytes_per_second * state.holders / limit), kMany));
}

void HotPolicy::Decide(const HotName& name, const View& view, absl::Time now, State* state) const {
  const int holders = HoldersOf(view, name), owners = view.placement.current().width();
  if (std::exchange(state->holders, holders) != holders) state->settled = now + options_.settle;
  const double limit = static_cast<double>(options_.bytes_per_second);
  const auto copies = [&](double of) { return std::clamp(HoldersFor(*state, of) - owners, 0, options_.max_copies); };
  const int more = std::max(1, copies(limit)), enough = copies(limit / 2);
  const bool settled = state->copies == 0 || now >= state->settled;
  if (Exceeds(*state, limit) && more > state->copies && settled) {
    state->copies = more;
    state->settled = now + options_.settle;
  }
  if (enough >= state->copies) {
    state->cooled = absl::InfiniteFuture();
  } else if (state->cooled == absl::InfiniteFuture()) {
    state->cooled = now + options_.cool;
  } else if (now >= state->cooled) {
    state->copies = enough;
    state->cooled = absl::InfiniteFuture();
  }
}

std::vector<HotRead> HotPolicy::Look(const node::ReadRates::Snapshot& rates, const View& view, absl::Time now) {
  std::vector<HotRead> hot;
  // If every member owns every slot, there are no further members.
  const bool others = view.placement.members().size() > static_cast<size_t>(view.placement.current().width());
  if (options_.bytes_per_second == 0 || !others) {
    states_.clear();
    return hot;
  }
  Take(rates, view);
  for (auto at = states_.begin(); at != states_.end();) {
    auto& [name, state] = *at;
    Decide(name, view, now, &state);
    if (state.copies == 0 && !OthersWant(view, name)) {
      at = states_.erase(at);
      continue;
    }
    const auto published = static_cast<double>(state.published_reads);
    if (state.reads_per_second > 2 * published || state.reads_per_second < published / 2) {
      state.published_reads = static_cast<uint64_t>(std::ceil(state.reads_per_second));
    }
    hot.push_back({name, state.copies, state.published_reads});
    ++at;
  }
  return hot;
}

}  // namespace kvlink::store::cluster
