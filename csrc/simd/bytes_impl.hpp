// Arithmetic on bytes, written once over `Vec` and `Bytes`. Included after kernels_impl.hpp by the
// files of ISAs that have integer products; the same rules hold.
//
// Bytes needs, for registers of Vec::kLanes 32-bit lanes: Ints {zero, load, store, add, round(Vec),
// to_vec(), times_128()}, kLimit, kTall and
// kShort (rows of register tiles), Quad {load(const int8*), broadcast(const uint8*)}, dot(Ints,
// Quad a, Quad b), store_quads(four Ints, int8* out) for their low bytes, split(const float*, Vec
// factor, uint8* high, uint8* low) for kSplit entries, and interleave(const uint8*, ld, uint8* out)
// for four rows of kByteUnit columns.

namespace loragraft {
namespace {

inline float peak(const float* values, std::size_t n) {
  // Several chains of comparisons, so that none waits for its own last one.
  constexpr std::size_t kChains = 4;
  Vec largest[kChains] = {Vec::zero(), Vec::zero(), Vec::zero(), Vec::zero()};
  std::size_t i = 0;
  for (; i + kChains * Vec::kLanes <= n; i += kChains * Vec::kLanes) {
    for (std::size_t chain = 0; chain < kChains; ++chain) {
      const Vec value = Vec::load(values + i + chain * Vec::kLanes);
      largest[chain] = max(largest[chain], value.magnitude());
    }
  }
  for (; i < n; i += Vec::kLanes) {
    const std::size_t count = n - i < Vec::kLanes ? n - i : Vec::kLanes;
    const auto* rest = reinterpret_cast<const std::byte*>(values + i);
    largest[0] = max(largest[0], load_part<DType::f32>(rest, count).magnitude());
  }
  float lanes[Vec::kLanes];
  max(max(largest[0], largest[1]), max(largest[2], largest[3])).store(lanes);
  float result = 0.0F;
  for (const float lane : lanes) result = lane > result ? lane : result;
  return result;
}

inline float split(const float* in, std::size_t n, float factor, std::uint8_t* high,
                   std::uint8_t* low) {
  const Vec scale = Vec::broadcast(&factor);
  Vec errors = Vec::zero();
  for (std::size_t i = 0; i < n; i += Bytes::kSplit) {
    errors = Bytes::split(in + i, scale, errors, high + i, low + i);
  }
  float lanes[Vec::kLanes];
  errors.store(lanes);
  float sum = 0.0F;
  for (const float lane : lanes) sum += lane;
  return sum;
}

inline void measure_columns(const float* in, std::size_t ld, std::size_t rows, std::size_t width,
                            float* peaks, float* squares) {
  for (std::size_t j = 0; j < width; j += Vec::kLanes) {
    Vec largest = Vec::zero();
    Vec sum = Vec::zero();
    for (std::size_t i = 0; i < rows; ++i) {
      const Vec value = Vec::load(in + i * ld + j);
      largest = max(largest, value.magnitude());
      sum = fma(value, value, sum);
    }
    largest.store(peaks + j);
    sum.store(squares + j);
  }
}

inline void pack(const float* in, std::size_t ld, std::size_t rows, std::size_t width,
                 const float* factor, const BytePack& out) {
  using Ints = Bytes::Ints;
  constexpr float kLow = 2.0F * Bytes::kLimit;
  const Vec low_unit = Vec::broadcast(&kLow);
  for (std::size_t j = 0; j < width; j += Vec::kLanes) {
    const Vec scale = Vec::load(factor + j);
    Ints high_sum = Ints::zero();
    Ints low_sum = Ints::zero();
    for (std::size_t i = 0; i < rows; i += kByteStep) {
      Ints high[kByteStep];
      Ints low[kByteStep];
      for (std::size_t t = 0; t < kByteStep; ++t) {
        const Vec value = mul(Vec::load(in + (i + t) * ld + j), scale);
        high[t] = Ints::round(value);
        low[t] = Ints::round(mul(sub(value, high[t].to_vec()), low_unit));
        high_sum = add(high_sum, high[t]);
        low_sum = add(low_sum, low[t]);
      }
      const std::size_t at = (i * width) + (j * kByteStep);
      Bytes::store_quads(high, out.high + at);
      Bytes::store_quads(low, out.low + at);
    }
    add(high_sum.times_128(), Ints::load(out.high_sums + j)).store(out.high_sums + j);
    add(low_sum.times_128(), Ints::load(out.low_sums + j)).store(out.low_sums + j);
  }
}

inline void interleave(const std::uint8_t* in, std::size_t ld, std::size_t blocks,
                       std::uint8_t* out, std::size_t stride) {
  for (std::size_t b = 0; b < blocks; ++b) {
    Bytes::interleave(in + b * kByteUnit, ld, out + b * stride);
  }
}

// Registers stay registers only if every loop over them is unrolled.
template <std::size_t kR, std::size_t kV>
void byte_register_tile(const ByteTile& tile, std::size_t row, std::size_t column) {
  Bytes::Ints acc[kR][kV];
#pragma GCC unroll 32
  for (std::size_t i = 0; i < kR; ++i) {
#pragma GCC unroll 32
    for (std::size_t v = 0; v < kV; ++v) acc[i][v] = Bytes::Ints::zero();
  }
  const std::uint8_t* a = tile.a + row * tile.row_stride;
  const std::int8_t* b = tile.b + column * kByteStep;
  for (std::size_t s = 0; s < tile.steps; ++s) {
    Bytes::Quad operand[kV];
#pragma GCC unroll 32
    for (std::size_t v = 0; v < kV; ++v) {
      operand[v] = Bytes::Quad::load(b + v * Vec::kLanes * kByteStep);
    }
#pragma GCC unroll 32
    for (std::size_t i = 0; i < kR; ++i) {
      const Bytes::Quad x = Bytes::Quad::broadcast(a + i * tile.row_stride);
#pragma GCC unroll 32
      for (std::size_t v = 0; v < kV; ++v) acc[i][v] = Bytes::dot(acc[i][v], x, operand[v]);
    }
    a += tile.step_stride;
    b += tile.width * kByteStep;
  }
#pragma GCC unroll 32
  for (std::size_t i = 0; i < kR; ++i) {
#pragma GCC unroll 32
    for (std::size_t v = 0; v < kV; ++v) {
      const std::size_t j = column + v * Vec::kLanes;
      Vec value = sub(acc[i][v], Bytes::Ints::load(tile.b_sums + j)).to_vec();
      value = mul(value, Vec::load(tile.column_scale + j));
      if (tile.row_scale != nullptr) value = mul(value, Vec::broadcast(tile.row_scale + row + i));
      const std::size_t place = tile.places != nullptr ? tile.places[row + i] : row + i;
      float* out = tile.c + place * tile.ldc + j;
      add(Vec::load(out), value).store(out);
    }
  }
}

template <std::size_t kR, std::size_t kV>
void byte_last_rows(const ByteTile& tile, std::size_t row, std::size_t column) {
  if constexpr (kR > 0) {
    if (tile.rows - row == kR) {
      byte_register_tile<kR, kV>(tile, row, column);
    } else {
      byte_last_rows<kR - 1, kV>(tile, row, column);
    }
  }
}

template <std::size_t kV>
void byte_columns(const ByteTile& tile, std::size_t column) {
  // A single vector leaves registers for twice the rows.
  constexpr std::size_t kTall = kV > 1 ? Bytes::kTall : 2 * Bytes::kShort;
  std::size_t row = 0;
  // Two short tiles keep the units busier than a tall one and its rest.
  while (tile.rows - row >= kTall && (kV == 1 || tile.rows - row != 2 * Bytes::kShort)) {
    byte_register_tile<kTall, kV>(tile, row, column);
    row += kTall;
  }
  while (tile.rows - row >= Bytes::kShort) {
    byte_register_tile<Bytes::kShort, kV>(tile, row, column);
    row += Bytes::kShort;
  }
  byte_last_rows<Bytes::kShort - 1, kV>(tile, row, column);
}

inline void multiply(const ByteTile& tile) {
  constexpr std::size_t kPair = 2 * Vec::kLanes;
  std::size_t j = 0;
  for (; j + kPair <= tile.width; j += kPair) byte_columns<2>(tile, j);
  for (; j < tile.width; j += Vec::kLanes) byte_columns<1>(tile, j);
}

constexpr ByteKernels make_byte_kernels() {
  return {.limit = Bytes::kLimit,
          .peak = peak,
          .split = split,
          .measure_columns = measure_columns,
          .pack = pack,
          .interleave = interleave,
          .multiply = multiply};
}

}  // namespace
}  // namespace loragraft
