// The kernels on rounding cells, written once over `Vec`; included after kernels_impl.hpp, under
// the same rules. Vec also needs min, magnitude, signed_like (flips the sign where the other's is
// negative) and nonzero_lanes.

namespace loragraft {
namespace {

struct HalfCells {
  Vec away;
  Vec toward;
};

// No stored mantissa is so long that this brings another number than a power of two below it.
inline HalfCells half_cells(Vec value, Vec half, Vec smallest) {
  constexpr float kJustBelow = 1.0F - 0x1p-12F;
  const Vec size = value.magnitude();
  const Vec below = mul(size, Vec::broadcast(&kJustBelow));
  const Vec toward = mul(max(below.binade(), smallest), half);
  // Zeros of one sign stand for no numbers of the other.
  return {mul(max(size.binade(), smallest), half), min(toward, size)};
}

inline Vec beyond(Vec deviation, Vec away, Vec toward) {
  return sub(deviation, min(max(deviation, sub(Vec::zero(), toward)), away));
}

struct CellScan {
  Vec half;
  Vec smallest;
  Vec stretch;
  Vec slack;
  Vec precision;
  Vec negligible;
  std::size_t violations = 0;

  explicit CellScan(const CellRule& rule)
      : half(Vec::broadcast(&rule.half)),
        smallest(Vec::broadcast(&rule.smallest)),
        stretch(Vec::broadcast(&rule.stretch)),
        slack(Vec::broadcast(&rule.slack)),
        precision(Vec::broadcast(&kCellPrecision)),
        negligible(Vec::broadcast(&kNegligible)) {}

  Vec residual(Vec base, Vec tuned, Vec entry) {
    const Vec delta = sub(tuned, base);
    const HalfCells cell = half_cells(tuned, half, smallest);
    const Vec room = mul(slack, add(delta.magnitude(), cell.away));
    const Vec deviation = sub(entry, delta).signed_like(tuned);
    const Vec blur = sub(mul(delta.magnitude(), precision), mul(cell.away, negligible));
    const Vec reach = add(room, max(blur, Vec::zero()));
    violations += beyond(deviation, add(cell.away, reach), add(cell.toward, reach)).nonzero_lanes();
    return beyond(deviation, fma(cell.away, stretch, room), fma(cell.toward, stretch, room))
        .signed_like(tuned);
  }
};

template <DType B, DType T>
void hinge(const std::byte* base, const std::byte* tuned, const CellRule& rule, float* entries,
           std::size_t n, HingeSums& sums) {
  CellScan scan(rule);
  Vec::Sums squares;
  std::size_t i = 0;
  for (; i + Vec::kLanes <= n; i += Vec::kLanes) {
    scan.residual(load_at<B>(base, i), load_at<T>(tuned, i), Vec::load(entries + i))
        .store(entries + i);
    squares.add_squares(entries + i);
  }
  if (i < n) {
    float part[Vec::kLanes];
    const auto* const last = reinterpret_cast<const std::byte*>(entries + i);
    scan.residual(load_part<B>(base + i * size_of(B), n - i),
                  load_part<T>(tuned + i * size_of(T), n - i), load_part<DType::f32>(last, n - i))
        .store(part);
    squares.add_squares(part);
    __builtin_memcpy(entries + i, part, (n - i) * sizeof(float));
  }
  sums.square += squares.total();
  sums.violations += scan.violations;
}

inline double dot(const float* a, const float* b, std::size_t n) {
  constexpr std::size_t kStep = 4 * Vec::kLanes;
  constexpr std::size_t kBlock = 32 * kStep;
  const auto products = [&](std::size_t i, Vec sum) {
    return fma(Vec::load(a + i), Vec::load(b + i), sum);
  };
  double total = 0.0;
  std::size_t i = 0;
  while (i + kStep <= n) {
    const std::size_t end = n - i < kBlock ? n : i + kBlock;
    Vec sums[4] = {Vec::zero(), Vec::zero(), Vec::zero(), Vec::zero()};
    for (; i + kStep <= end; i += kStep) {
      for (std::size_t v = 0; v < 4; ++v) sums[v] = products(i + v * Vec::kLanes, sums[v]);
    }
    float lanes[Vec::kLanes];
    add(add(sums[0], sums[1]), add(sums[2], sums[3])).store(lanes);
    for (const float lane : lanes) total += static_cast<double>(lane);
  }
  for (; i < n; ++i) total += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return total;
}

inline void axpy(float alpha, const float* x, float* y, std::size_t n) {
  const Vec factor = Vec::broadcast(&alpha);
  std::size_t i = 0;
  for (; i + Vec::kLanes <= n; i += Vec::kLanes) {
    fma(factor, Vec::load(x + i), Vec::load(y + i)).store(y + i);
  }
  for (; i < n; ++i) y[i] += alpha * x[i];
}

template <DType B>
constexpr void fill_hinges(CellKernels& table, std::size_t row) {
  table.hinge[row][0] = hinge<B, DType::bf16>;
  table.hinge[row][1] = hinge<B, DType::f16>;
  table.hinge[row][2] = hinge<B, DType::f32>;
}

constexpr CellKernels make_cell_kernels() {
  CellKernels table{};
  fill_hinges<DType::bf16>(table, 0);
  fill_hinges<DType::f16>(table, 1);
  fill_hinges<DType::f32>(table, 2);
  table.dot = dot;
  table.axpy = axpy;
  return table;
}

}  // namespace
}  // namespace loragraft
