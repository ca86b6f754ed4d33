/* The sizes of the register tiles, and the bodies that are specialised by constant arguments. Included by vec.h. */

#ifndef CONVLAYERS_BODIES_H
#define CONVLAYERS_BODIES_H

/* The register tile: MR rows by NV vectors of accumulators, with NV loads and one broadcast beside them. */
#define NV 2
#if CONVLAYERS_REGISTERS >= 32
#define MR 14
#else
#define MR 6
#endif
/* The tile of spectra: two rows by so many columns of complex accumulators, with four vectors and two loads beside them. */
#if CONVLAYERS_REGISTERS >= 32
#define SPECTRA_COLUMNS 4
#else
#define SPECTRA_COLUMNS 2
#endif
#define PANEL (NV * VL)
/* Whether tiles may ask early: with vectors of at least 32 bytes, and of the data type that is asked for speed. */
#define ASKS (REAL_BYTES == 4 && VL > 4)
/* Whether a tile may pack what it reads (measured with 16 registers alone). */
#define TILE_PACKS (ASKS && MR == 6)
#define CACHE_LINE (64 / REAL_BYTES) /* values */
#define LINE_CHANNELS (PANEL < CACHE_LINE ? PANEL : CACHE_LINE) /* of a panel, that lie in one */
#define VECTORS_OF_LINE (LINE_CHANNELS / VL)
/* Planes of a 1 x 1 kernel that are packed side by side: they lie far apart. */
#define PLAIN_TAPS (MR == 6 ? 8 : 4)
#define TILE (MR * NV * VL)
#define SPILL (TILE + VL)
/* Values of a chunk of pixels, see gather_pixels.pxi. */
#define PIXEL_CHUNK ((MR + 2) * (VL > 1 ? VL / 2 : 1) * PANEL)
/* The tile of products of rows: so many rows and columns of accumulators, beside a vector for each row and one more. */
#if CONVLAYERS_REGISTERS >= 32
#define DOT_ROWS 4
#define DOT_COLS 6
#else
#define DOT_ROWS 3
#define DOT_COLS 4
#endif
#define DOT_SUMS ((DOT_ROWS * DOT_COLS + VL - 1) / VL * VL)
/* The taps, up to 5 x 5, of the filters of a tile, in whole vectors. */
#define MOST_TAPS 25

/* The points of the Winograd transforms, +-A and +-B beside 0 and infinity; see winograd.pxi. */
#define WINOGRAD_A ((real)0.70710678118654752440)
#define WINOGRAD_B ((real)1.41421356237309504880)

/* Depthwise convolution: STRIP_ROWS rows by STRIP_VECS vectors of outputs, or TAP_SUMS sums over pixels for KEPT_ROWS rows of
   gradients, stay in registers beside COLUMN_TAPS broadcast taps or a vector for each kernel column. */
#define COLUMN_TAPS 7
#define PAIRED_TAPS 4
#define STRIP_ROWS 8
#define KEPT_ROWS 4
#if CONVLAYERS_REGISTERS >= 32
#define STRIP_VECS 2
#define TAP_SUMS 21
#else
#define STRIP_VECS 1
#define TAP_SUMS 10
#endif

/* The bodies below are written once and specialised by constant arguments, which only inlining brings about. */
struct convlayers_tile_args;
struct convlayers_rows;
struct convlayers_pool;
struct convlayers_forward;
struct convlayers_strip;
struct convlayers_dot;
struct convlayers_column;
struct convlayers_copy;
struct convlayers_put;
struct convlayers_padded;
struct convlayers_spectra;
struct convlayers_depthwise;
struct convlayers_grid;
struct convlayers_series;
struct convlayers_winograd_args;
struct convlayers_workspace;
ALWAYS_INLINE void convlayers_tile(int, int, int, struct convlayers_tile_args *);
ALWAYS_INLINE void convlayers_asking_rows(int, struct convlayers_tile_args *);
ALWAYS_INLINE void convlayers_packing_rows(int, struct convlayers_tile_args *);
ALWAYS_INLINE void convlayers_tile_rows(int, int, struct convlayers_tile_args *);
ALWAYS_INLINE void convlayers_row_tiles(int, int, int, struct convlayers_rows *);
ALWAYS_INLINE void convlayers_transpose_vectors(int, const real *, ptrdiff_t, ptrdiff_t, ptrdiff_t, const real *, real *,
                                                ptrdiff_t);
ALWAYS_INLINE void convlayers_transpose_rows(int, const real *, const real *, ptrdiff_t, ptrdiff_t, ptrdiff_t, const real *, real *,
                                             ptrdiff_t);
ALWAYS_INLINE void convlayers_line_input(const vf *, vf *);
ALWAYS_INLINE vf convlayers_every_second(int, int, const vf *, real);
ALWAYS_INLINE void convlayers_line_filter(int, const vf *, vf *);
ALWAYS_INLINE void convlayers_line_output(int, const vf *, vf *);
ALWAYS_INLINE void convlayers_outputs_of_line(int, const real *, ptrdiff_t, vf, vf, real, real *, const ptrdiff_t *);
ALWAYS_INLINE void convlayers_winograd_input(int, const vf *, int, vf *, int);
ALWAYS_INLINE void convlayers_winograd_filter(int, int, const vf *, int, vf *, int);
ALWAYS_INLINE void convlayers_winograd_output(int, int, const vf *, int, vf *, int);
ALWAYS_INLINE void convlayers_winograd_product(const vf *, int, vf *, int);
ALWAYS_INLINE void convlayers_strided_filter(const vf *, int, vf *, int);
ALWAYS_INLINE void convlayers_strided_input(const vf *, int, vf *, int);
ALWAYS_INLINE void convlayers_strided_output(const vf *, int, vf *, int);
ALWAYS_INLINE void convlayers_spread_input(const vf *, int, int, vf *, int);
ALWAYS_INLINE void convlayers_spread_output(const vf *, int, int, vf *, int);
ALWAYS_INLINE void convlayers_tile_input(int, int, const vf *, int, vf *, int);
ALWAYS_INLINE void convlayers_columns_down(int, int, int, const real **, ptrdiff_t, real *, ptrdiff_t);
ALWAYS_INLINE void convlayers_tiles_across(int, int, int, const real *, ptrdiff_t, const ptrdiff_t *, int, real *, ptrdiff_t);
ALWAYS_INLINE void convlayers_tall_feed(int, int, int, int, ptrdiff_t, ptrdiff_t, const real *, ptrdiff_t, unsigned, ptrdiff_t,
                                        const vf *, vf *);
ALWAYS_INLINE void convlayers_tall_column(int, int, int, ptrdiff_t, ptrdiff_t, const real *, ptrdiff_t, unsigned, ptrdiff_t,
                                          const real *, ptrdiff_t, ptrdiff_t, vf *);
ALWAYS_INLINE void convlayers_strided_feed(int, int, int, int, ptrdiff_t, ptrdiff_t, const real *, ptrdiff_t, const unsigned *,
                                           const vf *, vf *);
ALWAYS_INLINE void convlayers_strided_columns(int, int, int, ptrdiff_t, ptrdiff_t, const real *, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                                              const real *, vf *);
ALWAYS_INLINE void convlayers_tall_plane(int, int, int, int, struct convlayers_depthwise *, struct convlayers_series *);
ALWAYS_INLINE void convlayers_columns_apart(int, int, const real **, ptrdiff_t, real *, ptrdiff_t, ptrdiff_t);
ALWAYS_INLINE void convlayers_tiles_apart(int, int, const real *, ptrdiff_t, const ptrdiff_t *, const vmask *, ptrdiff_t, real *,
                                          ptrdiff_t);
ALWAYS_INLINE void convlayers_filter_values(int, int, const real *, ptrdiff_t, int, real *, ptrdiff_t);
ALWAYS_INLINE void convlayers_rest_sums(int, int, const struct convlayers_tile_args *, const real *, real *, ptrdiff_t);
ALWAYS_INLINE vf convlayers_larger(vf, vf);
ALWAYS_INLINE vf convlayers_held(vf, real);
ALWAYS_INLINE vf convlayers_finished(vf, vf, vf, real);
ALWAYS_INLINE void convlayers_output_pairs(int, const real *, ptrdiff_t, vf, vf, real, real *, ptrdiff_t);
ALWAYS_INLINE void convlayers_squares_of_two(int, const real *, ptrdiff_t, vf, vf, real, real *);
ALWAYS_INLINE void convlayers_squares_of_four(const real *, ptrdiff_t, vf, vf, real, vf *);
ALWAYS_INLINE void convlayers_padded_lines(int, const struct convlayers_padded *);
ALWAYS_INLINE void convlayers_pack_row(int, const real *, const ptrdiff_t *, ptrdiff_t, real *, ptrdiff_t);
ALWAYS_INLINE void convlayers_winograd_gradient_axis(int, int, const vf *, vf *);
ALWAYS_INLINE void convlayers_winograd_gradient_tile(int, int, const real **, ptrdiff_t, int, int, real *, real *, ptrdiff_t);
ALWAYS_INLINE void convlayers_lane_sums(const vf *, int, real *);
ALWAYS_INLINE void convlayers_dot_tile(int, const real **, const real **, ptrdiff_t, real *);
ALWAYS_INLINE void convlayers_feed(int, int, int, int, const real *, const real *, ptrdiff_t, const vf *, vf *);
ALWAYS_INLINE void convlayers_strip_column(int, int, int, const real *, const real *, ptrdiff_t, const real *, ptrdiff_t, vf *);
ALWAYS_INLINE void convlayers_strip_body(int, int, int, struct convlayers_strip *);
ALWAYS_INLINE void convlayers_strip_rows(int, int, int, struct convlayers_strip *);
ALWAYS_INLINE void convlayers_strip_vecs(int, int, int, struct convlayers_strip *);
ALWAYS_INLINE void convlayers_sides_of(int, vf, vf, vf, vmask, vmask, const real *, const real *, vf *);
ALWAYS_INLINE void convlayers_flat_sums(int, struct convlayers_depthwise *, struct convlayers_series *);
ALWAYS_INLINE void convlayers_splat_taps(int, const real *, vf *);
ALWAYS_INLINE void convlayers_load_sums(struct convlayers_series *, vf *);
ALWAYS_INLINE void convlayers_store_sums_of(struct convlayers_series *, const vf *);
ALWAYS_INLINE void convlayers_see_row(int, int, real const *, unsigned int const *, vf *);
ALWAYS_INLINE void convlayers_window_panel(
    int, int, struct convlayers_depthwise *, struct convlayers_series *, real const *, real *, ptrdiff_t, ptrdiff_t, vf *);
ALWAYS_INLINE void convlayers_window_sums(int, int, struct convlayers_depthwise *, struct convlayers_series *);
ALWAYS_INLINE void convlayers_see_pair(int, vf const *, vf const *, vf *);
ALWAYS_INLINE void convlayers_pair_sums(int, struct convlayers_depthwise *, struct convlayers_series *);
ALWAYS_INLINE void convlayers_see_twice(int, real const *, unsigned int const *, vf *);
ALWAYS_INLINE void convlayers_store_pairs(int, vf, vf, real *, unsigned int, unsigned int);
ALWAYS_INLINE void convlayers_spread_panel(
    struct convlayers_depthwise *, struct convlayers_series *, ptrdiff_t, ptrdiff_t, vf const *);
ALWAYS_INLINE vf convlayers_masked(real const *, real const *);
ALWAYS_INLINE void convlayers_see(int, real const *, real const *, vf *);
ALWAYS_INLINE void convlayers_row_sums(int, int, struct convlayers_depthwise *, struct convlayers_series *);
ALWAYS_INLINE void convlayers_short_feed(int, int, int, int, real const *, real const *, vf *, vf *);
struct convlayers_row_strips;
ALWAYS_INLINE void convlayers_short_strip(
    int, int, int, const struct convlayers_row_strips *, real const *, ptrdiff_t, real const *, real *, real const *, vf, vf *);
ALWAYS_INLINE void convlayers_spread_pair(
    int, int, struct convlayers_depthwise *, struct convlayers_series *, ptrdiff_t, vf const *);
ALWAYS_INLINE void convlayers_spread_planes(int, int, struct convlayers_depthwise *, struct convlayers_series *);
ALWAYS_INLINE void convlayers_mixed_sums(int, struct convlayers_depthwise *, struct convlayers_grid *, const real *, const real *,
                                         real *);
ALWAYS_INLINE void convlayers_copy_lines(ptrdiff_t, ptrdiff_t, struct convlayers_copy *);
ALWAYS_INLINE void convlayers_copy_vectors(ptrdiff_t, struct convlayers_copy *);
ALWAYS_INLINE void convlayers_put_lines(int, ptrdiff_t, struct convlayers_put *);
ALWAYS_INLINE void convlayers_put_vectors(int, struct convlayers_put *);
ALWAYS_INLINE void convlayers_dot_column(int, int, int, const real *, vmask, const vf *, vf *);
ALWAYS_INLINE void convlayers_dot_feed(int, int, int, int, const real *, const struct convlayers_column *, vmask, const vf *, vf *);
ALWAYS_INLINE void convlayers_dot_rows(int, int, int, const real *, ptrdiff_t, const struct convlayers_column *, const real *,
                                       ptrdiff_t, vmask, vf *);
ALWAYS_INLINE void convlayers_dot_body(int, int, struct convlayers_dot *);
ALWAYS_INLINE void convlayers_dot_columns(int, int, struct convlayers_dot *);

struct convlayers_norm;
ALWAYS_INLINE void convlayers_sum_block(int, int, struct convlayers_norm *, ptrdiff_t, ptrdiff_t, real, double *);
ALWAYS_INLINE void convlayers_write_block(int, int, struct convlayers_norm *, ptrdiff_t, ptrdiff_t);
struct convlayers_groups;
ALWAYS_INLINE void convlayers_span_sums(int, struct convlayers_groups *, ptrdiff_t, ptrdiff_t, ptrdiff_t, const real *,
                                        double *);
ALWAYS_INLINE void convlayers_write_span(int, int, struct convlayers_groups *, ptrdiff_t, ptrdiff_t, ptrdiff_t,
                                         ptrdiff_t);
ALWAYS_INLINE void convlayers_write_group(int, int, struct convlayers_groups *, ptrdiff_t);
ALWAYS_INLINE void convlayers_group_sums(int, struct convlayers_groups *, ptrdiff_t, double *);
ALWAYS_INLINE void convlayers_spectra_tile(int, int, struct convlayers_spectra *, const real *, const real *, ptrdiff_t, real *);
ALWAYS_INLINE vf convlayers_every(int, const real *, ptrdiff_t);
ALWAYS_INLINE void convlayers_combine_rows(int, ptrdiff_t, int, struct convlayers_pool *, const real *, const real *,
                                           ptrdiff_t, ptrdiff_t, real *, real *);
ALWAYS_INLINE void convlayers_combine_pairs(int, int, ptrdiff_t, ptrdiff_t, const real *, ptrdiff_t, real *, real *);
ALWAYS_INLINE void convlayers_combine_any(int, ptrdiff_t, struct convlayers_pool *, const real *, const real *, ptrdiff_t,
                                          ptrdiff_t, real *, real *);
ALWAYS_INLINE void convlayers_combine_columns(int, int, ptrdiff_t, ptrdiff_t, const real *, const real *, const real *,
                                              ptrdiff_t, real *, real *);
ALWAYS_INLINE void convlayers_pool_batch(int, struct convlayers_pool *, struct convlayers_forward *, const real *,
                                         const real *, ptrdiff_t, ptrdiff_t, const real *, real *);
ALWAYS_INLINE vmask convlayers_taps_of(const unsigned char *);
ALWAYS_INLINE void convlayers_spread(int, int, ptrdiff_t, ptrdiff_t, const real *, const real *, ptrdiff_t, ptrdiff_t, real *);
ALWAYS_INLINE void convlayers_add_lines(ptrdiff_t, const real *, const real *, const real *, ptrdiff_t, real *);

/* What stands in the loops of the others stays out of line: inlined there, layers of 16 channels took 1.02 times as long. */
NEVER_INLINE void convlayers_flat_down(struct convlayers_winograd_args *, const real **, ptrdiff_t, real *);
NEVER_INLINE void convlayers_transform_flat(struct convlayers_winograd_args *, ptrdiff_t, real *, struct convlayers_workspace *);
NEVER_INLINE void convlayers_outputs_along(struct convlayers_winograd_args *, const real *, vf, vf, real *, const ptrdiff_t *);
NEVER_INLINE void convlayers_gradients_along(const real **, ptrdiff_t, int, int, real *, ptrdiff_t);
NEVER_INLINE void convlayers_filters_along(struct convlayers_winograd_args *, const real *, ptrdiff_t, int, real *);

#endif
