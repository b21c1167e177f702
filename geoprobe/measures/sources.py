"""BibTeX of the papers that the measures come from."""

ROY_VETTERLI_2007 = """@inproceedings{roy2007effective,
  title = {The effective rank: A measure of effective dimensionality},
  author = {Roy, Olivier and Vetterli, Martin},
  booktitle = {15th European Signal Processing Conference (EUSIPCO)},
  pages = {606--610},
  year = {2007}
}"""

GARRIDO_2023 = """@inproceedings{garrido2023rankme,
  title = {{RankMe}: Assessing the Downstream Performance of Pretrained Self-Supervised
           Representations by Their Rank},
  author = {Garrido, Quentin and Balestriero, Randall and Najman, Laurent and LeCun, Yann},
  booktitle = {Proceedings of the 40th International Conference on Machine Learning},
  series = {PMLR},
  volume = {202},
  year = {2023},
  eprint = {2210.02885},
  archivePrefix = {arXiv}
}"""

LI_2025 = """@inproceedings{li2025tracing,
  title = {Tracing the Representation Geometry of Language Models from Pretraining to
           Post-training},
  author = {Li, Melody Zixuan and Agrawal, Kumar Krishna and Ghosh, Arna and Teru, Komal Kumar
            and Santoro, Adam and Lajoie, Guillaume and Richards, Blake A.},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2025},
  eprint = {2509.23024},
  archivePrefix = {arXiv}
}"""

STRINGER_2019 = """@article{stringer2019high,
  title = {High-dimensional geometry of population responses in visual cortex},
  author = {Stringer, Carsen and Pachitariu, Marius and Steinmetz, Nicholas and Carandini, Matteo
            and Harris, Kenneth D.},
  journal = {Nature},
  volume = {571},
  pages = {361--365},
  year = {2019},
  doi = {10.1038/s41586-019-1346-5}
}"""

AGRAWAL_2022 = """@inproceedings{agrawal2022alphareq,
  title = {{$\\alpha$-ReQ}: Assessing Representation Quality in Self-Supervised Learning by
           measuring eigenspectrum decay},
  author = {Agrawal, Kumar Krishna and Mondal, Arnab Kumar and Ghosh, Arna and Richards, Blake A.},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {35},
  year = {2022}
}"""

GAO_2017 = """@article{gao2017theory,
  title = {A theory of multineuronal dimensionality, dynamics and measurement},
  author = {Gao, Peiran and Trautmann, Eric and Yu, Byron and Santhanam, Gopal and Ryu, Stephen
            and Shenoy, Krishna and Ganguli, Surya},
  journal = {bioRxiv},
  year = {2017},
  doi = {10.1101/214262}
}"""

CHUN_2026 = """@inproceedings{chun2026estimating,
  title = {Estimating Dimensionality of Neural Representations from Finite Samples},
  author = {Chun, Chanwoo and Canatar, Abdulkadir and Chung, SueYeon and Lee, Daniel},
  booktitle = {International Conference on Learning Representations},
  year = {2026},
  eprint = {2509.26560},
  archivePrefix = {arXiv}
}"""

HE_OZAY_2022 = """@inproceedings{he2022exploring,
  title = {Exploring the Gap between Collapsed and Whitened Features in Self-Supervised Learning},
  author = {He, Bobby and Ozay, Mete},
  booktitle = {Proceedings of the 39th International Conference on Machine Learning},
  series = {PMLR},
  volume = {162},
  year = {2022}
}"""

RUDELSON_VERSHYNIN_2007 = """@article{rudelson2007sampling,
  title = {Sampling from large matrices: An approach through geometric functional analysis},
  author = {Rudelson, Mark and Vershynin, Roman},
  journal = {Journal of the ACM},
  volume = {54},
  number = {4},
  year = {2007},
  doi = {10.1145/1255443.1255449}
}"""

RUDMAN_2022 = """@inproceedings{rudman2022isoscore,
  title = {{IsoScore}: Measuring the Uniformity of Embedding Space Utilization},
  author = {Rudman, William and Gillman, Nate and Rayne, Taylor and Eickhoff, Carsten},
  booktitle = {Findings of the Association for Computational Linguistics: ACL 2022},
  pages = {3325--3339},
  year = {2022},
  doi = {10.18653/v1/2022.findings-acl.262}
}"""

FACCO_2017 = """@article{facco2017estimating,
  title = {Estimating the intrinsic dimension of datasets by a minimal neighborhood information},
  author = {Facco, Elena and d'Errico, Maria and Rodriguez, Alex and Laio, Alessandro},
  journal = {Scientific Reports},
  volume = {7},
  pages = {12140},
  year = {2017},
  doi = {10.1038/s41598-017-11873-y}
}"""

SKEAN_2025 = """@inproceedings{skean2025layer,
  title = {Layer by Layer: Uncovering Hidden Representations in Language Models},
  author = {Skean, Oscar and Arefin, Md Rifat and Zhao, Dan and Patel, Niket Nikul and
            Naghiyev, Jalal and LeCun, Yann and Shwartz-Ziv, Ravid},
  booktitle = {Proceedings of the 42nd International Conference on Machine Learning},
  series = {PMLR},
  volume = {267},
  pages = {55854--55875},
  year = {2025},
  eprint = {2502.02013},
  archivePrefix = {arXiv}
}"""

GU_2024 = """@inproceedings{gu2025attention,
  title = {When Attention Sink Emerges in Language Models: An Empirical View},
  author = {Gu, Xiangming and Pang, Tianyu and Du, Chao and Liu, Qian and Zhang, Fengzhuo and Du,
            Cunxiao and Wang, Ye and Lin, Min},
  booktitle = {International Conference on Learning Representations},
  year = {2025},
  eprint = {2410.10781},
  archivePrefix = {arXiv}
}"""

SUN_2024 = """@inproceedings{sun2024massive,
  title = {Massive Activations in Large Language Models},
  author = {Sun, Mingjie and Chen, Xinlei and Kolter, J. Zico and Liu, Zhuang},
  booktitle = {Conference on Language Modeling},
  year = {2024},
  eprint = {2402.17762},
  archivePrefix = {arXiv}
}"""

SECONDARY_SINKS_2025 = """@misc{wong2025secondary,
  title = {On the Existence and Behaviour of Secondary Attention Sinks},
  author = {Wong, Jeffrey T. H. and Zhang, Cheng and Mahon, Louis and Luk, Wayne and Isopoussu,
            Anton and Zhao, Yiren},
  year = {2025},
  eprint = {2512.22213},
  archivePrefix = {arXiv}
}"""

PAPYAN_2020 = """@article{papyan2020prevalence,
  title = {Prevalence of neural collapse during the terminal phase of deep learning
           training},
  author = {Papyan, Vardan and Han, X. Y. and Donoho, David L.},
  journal = {Proceedings of the National Academy of Sciences},
  volume = {117},
  number = {40},
  pages = {24652--24663},
  year = {2020},
  doi = {10.1073/pnas.2015509117},
  eprint = {2008.08186},
  archivePrefix = {arXiv}
}"""

HE_SU_2023 = """@article{he2023law,
  title = {A law of data separation in deep learning},
  author = {He, Hangfeng and Su, Weijie J.},
  journal = {Proceedings of the National Academy of Sciences},
  volume = {120},
  number = {36},
  year = {2023},
  eprint = {2210.17020},
  archivePrefix = {arXiv}
}"""

TIRER_BRUNA_2022 = """@inproceedings{tirer2022extended,
  title = {Extended Unconstrained Features Model for Exploring Deep Neural Collapse},
  author = {Tirer, Tom and Bruna, Joan},
  booktitle = {Proceedings of the 39th International Conference on Machine Learning},
  series = {PMLR},
  volume = {162},
  year = {2022},
  eprint = {2202.08087},
  archivePrefix = {arXiv}
}"""

TIRER_2023 = """@inproceedings{tirer2023perturbation,
  title = {Perturbation Analysis of Neural Collapse},
  author = {Tirer, Tom and Huang, Haoxiang and Niles-Weed, Jonathan},
  booktitle = {Proceedings of the 40th International Conference on Machine Learning},
  series = {PMLR},
  volume = {202},
  year = {2023},
  eprint = {2210.16658},
  archivePrefix = {arXiv}
}"""

GALANTI_2022 = """@inproceedings{galanti2022role,
  title = {On the Role of Neural Collapse in Transfer Learning},
  author = {Galanti, Tomer and Gy{\\"o}rgy, Andr{\\'a}s and Hutter, Marcus},
  booktitle = {International Conference on Learning Representations},
  year = {2022},
  eprint = {2112.15121},
  archivePrefix = {arXiv}
}"""

ZHU_2021 = """@inproceedings{zhu2021geometric,
  title = {A Geometric Analysis of Neural Collapse with Unconstrained Features},
  author = {Zhu, Zhihui and Ding, Tianyu and Zhou, Jinxin and Li, Xiao and You, Chong and
            Sulam, Jeremias and Qu, Qing},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {34},
  year = {2021},
  eprint = {2105.02375},
  archivePrefix = {arXiv}
}"""

WU_PAPYAN_2024 = """@inproceedings{wu2024linguistic,
  title = {Linguistic Collapse: Neural Collapse in (Large) Language Models},
  author = {Wu, Robert and Papyan, Vardan},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {37},
  year = {2024},
  eprint = {2405.17767},
  archivePrefix = {arXiv}
}"""

DANG_2023 = """@inproceedings{dang2023neural,
  title = {Neural Collapse in Deep Linear Networks: From Balanced to Imbalanced Data},
  author = {Dang, Hien and Tran, Tho and Osher, Stanley and Tran-The, Hung and Ho, Nhat
            and Nguyen, Tan},
  booktitle = {Proceedings of the 40th International Conference on Machine Learning},
  series = {PMLR},
  volume = {202},
  year = {2023},
  eprint = {2301.00437},
  archivePrefix = {arXiv}
}"""

BERESKA_2025 = """@article{bereska2025superposition,
  title = {Superposition as Lossy Compression: Measure with Sparse Autoencoders and Connect to
           Adversarial Vulnerability},
  author = {Bereska, Leonard and Tzifa-Kratira, Zoe and Samavi, Reza and Gavves, Efstratios},
  journal = {Transactions on Machine Learning Research},
  year = {2025},
  eprint = {2512.13568},
  archivePrefix = {arXiv}
}"""

ELHAGE_2022 = """@article{elhage2022toy,
  title = {Toy Models of Superposition},
  author = {Elhage, Nelson and Hume, Tristan and Olsson, Catherine and Schiefer, Nicholas and
            Henighan, Tom and Kravec, Shauna and Hatfield-Dodds, Zac and Lasenby, Robert and
            Drain, Dawn and Chen, Carol and Grosse, Roger and McCandlish, Sam and Kaplan, Jared
            and Amodei, Dario and Wattenberg, Martin and Olah, Christopher},
  journal = {Transformer Circuits Thread},
  year = {2022},
  eprint = {2209.10652},
  archivePrefix = {arXiv}
}"""

SCHERLIS_2022 = """@article{scherlis2022polysemanticity,
  title = {Polysemanticity and Capacity in Neural Networks},
  author = {Scherlis, Adam and Sachan, Kshitij and Jermyn, Adam S. and Benton, Joe and
            Shlegeris, Buck},
  journal = {arXiv preprint},
  year = {2022},
  eprint = {2210.01892},
  archivePrefix = {arXiv}
}"""

WELCH_1974 = """@article{welch1974lower,
  title = {Lower bounds on the maximum cross correlation of signals},
  author = {Welch, Lloyd R.},
  journal = {IEEE Transactions on Information Theory},
  volume = {20},
  number = {3},
  pages = {397--399},
  year = {1974},
  doi = {10.1109/TIT.1974.1055219}
}"""

ELHAGE_2023 = """@article{elhage2023privileged,
  title = {Privileged Bases in the Transformer Residual Stream},
  author = {Elhage, Nelson and Lasenby, Robert and Olah, Christopher},
  journal = {Transformer Circuits Thread},
  year = {2023},
  url = {https://transformer-circuits.pub/2023/privileged-basis/index.html}
}"""

LIU_2025 = """@inproceedings{liu2025relation,
  title = {On Relation-Specific Neurons in Large Language Models},
  author = {Liu, Yihong and Chen, Runsheng and Hirlimann, Lea and Hakimi, Ahmad Dawar and
            Wang, Mingyang and Kargaran, Amir Hossein and Rothe, Sascha and Yvon, Fran{\\c{c}}ois
            and Sch{\\"u}tze, Hinrich},
  booktitle = {Proceedings of the 2025 Conference on Empirical Methods in Natural Language
               Processing},
  pages = {992--1022},
  year = {2025},
  doi = {10.18653/v1/2025.emnlp-main.52},
  eprint = {2502.17355},
  archivePrefix = {arXiv}
}"""

TANG_2024 = """@inproceedings{tang2024language,
  title = {Language-Specific Neurons: The Key to Multilingual Capabilities in Large Language
           Models},
  author = {Tang, Tianyi and Luo, Wenyang and Huang, Haoyang and Zhang, Dongdong and
            Wang, Xiaolei and Zhao, Xin and Wei, Furu and Wen, Ji-Rong},
  booktitle = {Proceedings of the 62nd Annual Meeting of the Association for Computational
               Linguistics},
  year = {2024},
  eprint = {2402.16438},
  archivePrefix = {arXiv}
}"""
